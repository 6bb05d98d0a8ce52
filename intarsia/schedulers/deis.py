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
        scaled = rows.sample / alpha_sigma(sigma)[0]
        for weight, epsilon in zip(log_integrals(nodes, sigma, target), history, strict=False):
            scaled = scaled + weight * epsilon
        rows.add(run.timesteps[i], sigma, alpha_sigma(target)[0] * scaled, *history[: highest - 1])
    return rows


def log_integrals(nodes: tuple[float, ...], low: float, high: float) -> list[float]:
    """∫ dρ from ``low`` to ``high`` of each Lagrange polynomial in log ρ on ``nodes``, up to three; exact."""
    points = [math.log(node) for node in nodes]
    weights = []
    for k, point in enumerate(points):
        others = [other for j, other in enumerate(points) if j != k]
        scale = math.prod(point - other for other in others)
        value = _antiderivative(others, math.log(high)) - _antiderivative(others, math.log(low))
        weights.append(value / scale)
    return weights


def _antiderivative(roots: list[float], u: float) -> float:
    """∫ p(u) e^u du = e^u (p - p' + p'') for the monic polynomial p with at most two ``roots``."""
    if not roots:
        return math.exp(u)
    if len(roots) == 1:
        return math.exp(u) * (u - roots[0] - 1)
    first, second = (u - root for root in roots)
    return math.exp(u) * (first * second - first - second + 2)
