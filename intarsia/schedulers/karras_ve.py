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
        rows.start = (1.0, math.hypot(first, _churn(first, raised[run.start])))

    for i in range(run.start, run.steps):
        sigma, target = raised[i], run.sigmas[i + 1]
        start = rows.epsilon(sigma)
        rows.add(run.timestep_of(sigma), sigma, rows.sample + (target - sigma) * start, rows.sample, start)

        if i + 1 < run.steps:
            corrected = origin + (target - sigma) / 2 * (slope + rows.epsilon(target))
            corrected = corrected + _churn(target, raised[i + 1]) * rows.noise
            rows.add(run.timesteps[i + 1], target, corrected, rows.zero, rows.zero)
    return rows


def _raised(run: SamplingRun, i: int) -> float:
    """The level that step ``i``'s churn raises its start to; not above what the network was trained on."""
    sigma = run.sigmas[i]
    gain = min(CHURN / run.steps, math.sqrt(2) - 1) if CHURN_FROM <= sigma <= CHURN_TO else 0.0
    return max(sigma, min(sigma * (1 + gain), float(run.schedule.sigmas[-1])))


def _churn(sigma: float, raised: float) -> float:
    """Factor of the fresh noise that takes a sample from ``sigma`` to ``raised``."""
    return CHURN_NOISE * math.sqrt(max(raised**2 - sigma**2, 0.0))
