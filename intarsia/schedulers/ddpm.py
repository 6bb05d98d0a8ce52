"""DDPM: the ancestral step of the training process itself, over however many levels are visited."""

from __future__ import annotations

import math

from intarsia.schedulers.rows import Rows, SamplingRun


def ddpm(run: SamplingRun) -> Rows:
    """Ho et al. 2020, DDPM (arXiv 2006.11239), eq. 6-7: mean and variance of q(x_{t-1} | x_t, x_0)."""
    rows = Rows(run, state_slots=1, variance_exploding=False)

    for i in range(run.start, run.steps):
        here, there = (1 / (1 + sigma**2) for sigma in run.sigmas[i : i + 2])  # ᾱ_t and ᾱ_{t-1}
        beta = 1 - here / there
        left = (1 - there) / (1 - here)

        mean = math.sqrt(there) * beta / (1 - here) * rows.image(run.sigmas[i])
        mean = mean + math.sqrt(here / there) * left * rows.sample
        rows.add(run.timesteps[i], run.sigmas[i], mean + math.sqrt(left * beta) * rows.noise)
    return rows
