"""Latent consistency models: predict the image, then noise it again to the next level."""

from __future__ import annotations

import math

from intarsia.schedulers.noise_schedule import alpha_sigma
from intarsia.schedulers.rows import Rows, SamplingRun

SIGMA_DATA = 0.5
TIMESTEP_SCALE = 10.0


def lcm(run: SamplingRun) -> Rows:
    """Luo et al. 2023, LCM (arXiv 2310.04378), algorithm 2 and the boundary condition of appendix C."""
    rows = Rows(run, state_slots=1, variance_exploding=False)

    for i in range(run.start, run.steps):
        scaled = run.timesteps[i] * TIMESTEP_SCALE
        keep = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        image = scaled / math.hypot(scaled, SIGMA_DATA) * rows.image(run.sigmas[i]) + keep * rows.sample
        if i + 1 < run.steps:
            alpha, sigma = alpha_sigma(run.sigmas[i + 1])
            image = alpha * image + sigma * rows.noise
        rows.add(run.timesteps[i], run.sigmas[i], image)
    return rows
