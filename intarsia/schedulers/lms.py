"""The linear multistep method (Adams-Bashforth on unequal steps) for the probability-flow ODE."""

from __future__ import annotations

import math

from intarsia.schedulers.rows import Rows, SamplingRun

ORDER = 4


def lms(run: SamplingRun) -> Rows:
    """dx/dσ = ε(x, σ) with the slope extrapolated through the last four (Hairer et al. 1993, III.1, III.5).

    State: sample, previous slopes, newest first. The order counts from the schedule's first step even where
    a run begins later, as in diffusers: below full strength the first steps weight slopes that are not there.
    """
    rows = Rows(run, state_slots=ORDER, variance_exploding=True)

    for i in range(run.start, run.steps):
        sigma, target = run.sigmas[i : i + 2]
        slopes = (rows.epsilon(sigma), *rows.state[1:])

        oldest = max(i - ORDER + 1, 0)
        nodes = run.sigmas[oldest : i + 1][::-1]
        weights = lagrange_integrals(nodes, sigma, target)

        sample = rows.sample
        for weight, slope in zip(weights, slopes, strict=False):
            sample = sample + weight * slope
        rows.add(run.timesteps[i], sigma, sample, *slopes[: ORDER - 1])
    return rows


def lagrange_integrals(nodes: tuple[float, ...], low: float, high: float) -> list[float]:
    """∫ from ``low`` to ``high`` of each Lagrange polynomial on ``nodes``: exact for up to four nodes.

    Two Gauss-Legendre points integrate cubics exactly (Abramowitz & Stegun 25.4.29).
    """
    middle = (low + high) / 2
    half = (high - low) / 2
    distance = half / math.sqrt(3)

    integrals = []
    for k in range(len(nodes)):
        at_points = _lagrange(nodes, k, middle - distance) + _lagrange(nodes, k, middle + distance)
        integrals.append(half * at_points)
    return integrals


def _lagrange(nodes: tuple[float, ...], k: int, at: float) -> float:
    """The polynomial that is 1 at ``nodes[k]`` and 0 at the others."""
    value = 1.0
    for j, node in enumerate(nodes):
        if j != k:
            value *= (at - node) / (nodes[k] - node)
    return value
