"""Latent consistency models: predict the image, then noise it again to the next level."""

from __future__ import annotations

import math

from intarsia.schedulers.dpm_steps import alpha_sigma
from intarsia.schedulers.rows import Problem, Rows

SIGMA_DATA = 0.5
TIMESTEP_SCALE = 10.0


def lcm(problem: Problem) -> Rows:
    """Luo et al. 2023, LCM (arXiv 2310.04378), algorithm 2 and the boundary condition of appendix C."""
    rows = Rows(problem, slots=1, exploding=False)
    for i in range(problem.start, problem.steps):
        scaled = problem.timesteps[i] * TIMESTEP_SCALE
        keep = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        image = scaled / math.hypot(scaled, SIGMA_DATA) * rows.image(problem.sigmas[i]) + keep * rows.sample
        if i + 1 < problem.steps:
            alpha, sigma = alpha_sigma(problem.sigmas[i + 1])
            image = alpha * image + sigma * rows.noise
        rows.add(problem.timesteps[i], problem.sigmas[i], image)
    return rows
