"""DDIM: the deterministic step between any two levels, with noise by η."""

from __future__ import annotations

import math

from intarsia.schedulers.dpm_steps import alpha_sigma
from intarsia.schedulers.euler import ancestral_split
from intarsia.schedulers.rows import Problem, Rows


def ddim(problem: Problem) -> Rows:
    """Song et al. 2021, DDIM (arXiv 2010.02502), eq. 12 and 16."""
    rows = Rows(problem, slots=1, exploding=False)
    eta = problem.options.eta
    for i in range(problem.start, problem.steps):
        ratio, target = problem.sigmas[i : i + 2]
        alpha, sigma = alpha_sigma(target)
        fresh = eta * alpha * ancestral_split(ratio, target)[0]
        along = math.sqrt(max(sigma**2 - fresh**2, 0.0))
        sample = alpha * rows.image(ratio) + along * rows.epsilon(ratio) + fresh * rows.noise
        rows.add(problem.timesteps[i], ratio, sample)
    return rows
