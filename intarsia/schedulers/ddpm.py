"""DDPM: the ancestral step of the training process itself, over however many levels are visited."""

from __future__ import annotations

import math

from intarsia.schedulers.rows import Rows, SamplingRun


def ddpm(run: SamplingRun) -> Rows:
    """Ho et al. 2020, DDPM (arXiv 2006.11239), eq. 6-7: mean and variance of q(x_{t-1} | x_t, x_0)."""
    rows = Rows(run, state_slots=1, variance_exploding=False)

    for i in range(run.start, run.steps):
        sigma, target = run.sigmas[i : i + 2]
        alpha_bar = 1 / (1 + sigma**2)  # ᾱ_t
        alpha_bar_next = 1 / (1 + target**2)  # ᾱ_{t-1}, the next level that is visited
        alpha = alpha_bar / alpha_bar_next
        beta = 1 - alpha

        ratio = (1 - alpha_bar_next) / (1 - alpha_bar)
        image_weight = math.sqrt(alpha_bar_next) * beta / (1 - alpha_bar)
        sample_weight = math.sqrt(alpha) * ratio
        mean = image_weight * rows.image(sigma) + sample_weight * rows.sample
        variance = ratio * beta
        rows.add(run.timesteps[i], sigma, mean + math.sqrt(variance) * rows.noise)
    return rows
