"""The EDM stochastic sampler: noise is added before each Heun step."""

from __future__ import annotations

import math

from intarsia.schedulers.rows import Rows, SamplingRun

# Karras et al. 2022 (EDM, arXiv 2206.00364), algorithm 2; the values of diffusers' class of that name.
CHURN = 80.0
CHURN_FROM, CHURN_TO = 0.05, 50.0
CHURN_NOISE = 1.007


def karras_ve(run: SamplingRun) -> Rows:
    """EDM's algorithm 2 over the model's noise levels. State: sample, the step's start, the slope there.

    A row's noise comes after its evaluation, so each step's churn is added by the last row of the step
    before; the first step's is part of the starting noise.
    """
    rows = Rows(run, state_slots=3, variance_exploding=True)
    _, origin, slope = rows.state
    raised = [_raised(run, i) for i in range(run.steps)]

    if run.start:
        first = run.sigmas[run.start]
        churn = _churn(first, raised[run.start])
        rows.start = (1.0, math.hypot(first, churn))

    for i in range(run.start, run.steps):
        sigma, target = raised[i], run.sigmas[i + 1]
        step = target - sigma
        epsilon = rows.epsilon(sigma)
        euler = rows.sample + step * epsilon
        rows.add(run.timestep_of(sigma), sigma, euler, rows.sample, epsilon)

        if i + 1 < run.steps:
            slopes = slope + rows.epsilon(target)
            corrected = origin + step / 2 * slopes
            churn = _churn(target, raised[i + 1])
            churned = corrected + churn * rows.noise
            rows.add(run.timesteps[i + 1], target, churned, rows.zero, rows.zero)
    return rows


def _raised(run: SamplingRun, i: int) -> float:
    """The level that step ``i``'s churn raises its start to; not above what the network was trained on."""
    sigma = run.sigmas[i]
    gamma = 0.0
    if CHURN_FROM <= sigma <= CHURN_TO:
        gamma = min(CHURN / run.steps, math.sqrt(2) - 1)

    highest = float(run.schedule.sigmas[-1])
    raised = min(sigma * (1 + gamma), highest)
    return max(sigma, raised)


def _churn(sigma: float, raised: float) -> float:
    """Factor of the fresh noise that takes a sample from ``sigma`` to ``raised``."""
    variance = max(raised**2 - sigma**2, 0.0)
    return CHURN_NOISE * math.sqrt(variance)
