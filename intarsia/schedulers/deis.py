"""DEIS: the exponential integrator with polynomial extrapolation of ε in log ρ."""

from __future__ import annotations

import math

from intarsia.schedulers.dpm_multistep import final_order
from intarsia.schedulers.noise_schedule import alpha_sigma
from intarsia.schedulers.rows import Rows, SamplingRun


def deis(run: SamplingRun) -> Rows:
    """Zhang & Chen 2023, DEIS (arXiv 2204.13902), eq. 15 with ρ = √(1-ᾱ)/√ᾱ and polynomials in log ρ.

    x_t/√ᾱ_t = x_s/√ᾱ_s + ∫ ε dρ. State: sample, previous noise predictions, newest first. It ends at the
    cleanest trained level: log ρ has no value at a clean image.
    """
    highest = run.options.solver_order or 2
    rows = Rows(run, state_slots=highest, variance_exploding=False)

    for i in range(run.start, run.steps):
        order = min(highest, i - run.start + 1, final_order(run, i))
        sigma, target = run.sigmas[i : i + 2]
        history = (rows.epsilon(sigma), *rows.state[1:])

        nodes = run.sigmas[i - order + 1 : i + 1][::-1]
        weights = log_integrals(nodes, sigma, target)

        alpha_s, _ = alpha_sigma(sigma)
        alpha_t, _ = alpha_sigma(target)
        scaled = rows.sample / alpha_s
        for weight, epsilon in zip(weights, history, strict=False):
            scaled = scaled + weight * epsilon
        rows.add(run.timesteps[i], sigma, alpha_t * scaled, *history[: highest - 1])
    return rows


def log_integrals(nodes: tuple[float, ...], low: float, high: float) -> list[float]:
    """∫ dρ from ``low`` to ``high`` of each Lagrange polynomial in log ρ on ``nodes``, up to three; exact."""
    start, end = math.log(low), math.log(high)
    points = [math.log(node) for node in nodes]

    weights = []
    for k, point in enumerate(points):
        others = points[:k] + points[k + 1 :]
        scale = math.prod(point - other for other in others)
        integral = _antiderivative(others, end) - _antiderivative(others, start)
        weights.append(integral / scale)
    return weights


def _antiderivative(roots: list[float], u: float) -> float:
    """∫ p(u) e^u du = e^u (p - p' + p'') for the monic polynomial p with at most two ``roots``."""
    factors = [u - root for root in roots]
    if not factors:
        return math.exp(u)

    if len(factors) == 1:
        [first] = factors
        return math.exp(u) * (first - 1)
    first, second = factors
    return math.exp(u) * (first * second - first - second + 2)
