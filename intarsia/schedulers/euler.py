"""Euler's method on the probability-flow ODE, and its ancestral variant."""

from __future__ import annotations

import math

from intarsia.schedulers.rows import Rows, SamplingRun


def euler(run: SamplingRun) -> Rows:
    """dx/dσ = ε(x, σ), one evaluation a step (Karras et al. 2022, EDM, algorithm 1 without the correction)."""
    rows = Rows(run, state_slots=1, variance_exploding=True)

    for i in range(run.start, run.steps):
        sigma, target = run.sigmas[i : i + 2]
        sample = rows.sample + (target - sigma) * rows.epsilon(sigma)
        rows.add(run.timesteps[i], sigma, sample)
    return rows


def euler_ancestral(run: SamplingRun) -> Rows:
    """An Euler step past the next level, then noise back up to it.

    The split of the level into a deterministic and a fresh part is DDPM's posterior variance (Ho et al. 2020,
    section 3.2; Song et al. 2021, DDIM, eq. 16 with η = 1) written in σ.
    """
    rows = Rows(run, state_slots=1, variance_exploding=True)

    for i in range(run.start, run.steps):
        sigma, target = run.sigmas[i : i + 2]
        up, down = ancestral_split(sigma, target)
        euler = rows.sample + (down - sigma) * rows.epsilon(sigma)
        rows.add(run.timesteps[i], sigma, euler + up * rows.noise)
    return rows


def ancestral_split(sigma: float, target: float) -> tuple[float, float]:
    """(fresh, deterministic) parts of level ``target`` when coming from ``sigma``; their squares sum to its."""
    removed = max(sigma**2 - target**2, 0.0)
    fresh = target * math.sqrt(removed) / sigma
    left = max(target**2 - fresh**2, 0.0)
    return fresh, math.sqrt(left)
