"""DDIM: the deterministic step between any two levels, with noise by η."""

from __future__ import annotations

import math

from intarsia.schedulers.euler import ancestral_split
from intarsia.schedulers.noise_schedule import alpha_sigma
from intarsia.schedulers.rows import Rows, SamplingRun


def ddim(run: SamplingRun) -> Rows:
    """Song et al. 2021, DDIM (arXiv 2010.02502), eq. 12 and 16."""
    rows = Rows(run, state_slots=1, variance_exploding=False)
    eta = run.options.eta

    for i in range(run.start, run.steps):
        sigma, target = run.sigmas[i : i + 2]
        alpha_t, sigma_t = alpha_sigma(target)
        ancestral, _ = ancestral_split(sigma, target)
        fresh = eta * alpha_t * ancestral
        along = math.sqrt(max(sigma_t**2 - fresh**2, 0.0))

        image, epsilon = rows.image(sigma), rows.epsilon(sigma)
        sample = alpha_t * image + along * epsilon + fresh * rows.noise
        rows.add(run.timesteps[i], sigma, sample)
    return rows
