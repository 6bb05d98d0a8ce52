"""DDPM: the ancestral step of the training process itself, over however many levels are visited."""

from __future__ import annotations

import math

from intarsia.schedulers.rows import Problem, Rows


def ddpm(problem: Problem) -> Rows:
    """Ho et al. 2020, DDPM (arXiv 2006.11239), eq. 6-7: mean and variance of q(x_{t-1} | x_t, x_0)."""
    rows = Rows(problem, slots=1, exploding=False)
    for i in range(problem.start, problem.steps):
        here, there = (1 / (1 + ratio**2) for ratio in problem.sigmas[i : i + 2])  # ᾱ_t and ᾱ_{t-1}
        beta = 1 - here / there
        left = (1 - there) / (1 - here)
        mean = math.sqrt(there) * beta / (1 - here) * rows.image(problem.sigmas[i])
        mean = mean + math.sqrt(here / there) * left * rows.sample
        rows.add(problem.timesteps[i], problem.sigmas[i], mean + math.sqrt(left * beta) * rows.noise)
    return rows
