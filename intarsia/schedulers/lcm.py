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
        sigma, target = run.sigmas[i : i + 2]
        scaled = run.timesteps[i] * TIMESTEP_SCALE
        c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        c_out = scaled / math.hypot(scaled, SIGMA_DATA)

        sample = c_out * rows.image(sigma) + c_skip * rows.sample
        if i + 1 < run.steps:
            alpha_t, sigma_t = alpha_sigma(target)
            sample = alpha_t * sample + sigma_t * rows.noise
        rows.add(run.timesteps[i], sigma, sample)
    return rows
