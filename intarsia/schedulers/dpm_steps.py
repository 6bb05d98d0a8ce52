"""DPM-Solver's exponential-integrator steps, shared by its multistep and singlestep forms.

Written for a start at level ``s``, an end at level ``t`` and λ = log(√ᾱ/√(1-ᾱ)) = -log σ. ``m`` is the
network's prediction in the form that the algorithm integrates: of ε for ``dpmsolver`` (Lu et al. 2022,
arXiv 2206.00927) and of x_0 for ``dpmsolver++`` (arXiv 2211.01095). With h = λ_t - λ_s:

    dpmsolver      x_t = (α_t/α_s) x - σ_t Σ_k φ_k(h) m^(k)
    dpmsolver++    x_t = (σ_t/σ_s) x + α_t Σ_k ψ_k(h) m^(k)

and the ``sde-`` forms integrate the reverse SDE, so that h doubles in the weights and fresh noise enters.
m^(k) are divided differences of the history.
"""

from __future__ import annotations

import math

from intarsia.errors import RequestError
from intarsia.schedulers.noise_schedule import SOLVER_TYPES, alpha_sigma, log_snr
from intarsia.schedulers.rows import Rows
from intarsia.schedulers.tables import Array

ALGORITHMS = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
TYPES = ("midpoint", "heun")


def prediction(rows: Rows, algorithm: str, sigma: float) -> Array:
    """What ``algorithm`` integrates, predicted from slot 0 at ``sigma``: x_0, or ε."""
    if algorithm.endswith("++"):
        return rows.image(sigma)
    return rows.epsilon(sigma)


def weights(algorithm: str, sigmas: tuple[float, float], order: int, solver_type: str) -> tuple[float, ...]:
    """Factors of (x, m, m', m'', noise) in one step between two ``sigmas``, zeros beyond ``order``.

    ``midpoint`` approximates the second weight by half of the first, which has the same order (2211.01095,
    eq. 4.1 against appendix B).
    """
    s, t = sigmas
    stochastic = algorithm.startswith("sde-")

    if algorithm.endswith("++"):
        carried, first, second, third, fresh = _image_weights(s, t, order, stochastic)
    else:
        carried, first, second, third, fresh = _noise_weights(s, t, order, stochastic)

    if solver_type == "midpoint" and order == 2:
        second = first / 2
    return carried, first, second, third, fresh


def _image_weights(s: float, t: float, order: int, stochastic: bool) -> tuple[float, ...]:
    """Those of ``dpmsolver++`` and its SDE form, from level ``s`` to ``t``.

    The SDE's weights are the ODE's at 2h: the noise decays twice as fast as it is predicted away.
    """
    _, sigma_s = alpha_sigma(s)
    alpha_t, sigma_t = alpha_sigma(t)
    h = log_snr(t) - log_snr(s)

    span = 2 * h if stochastic else h
    first, second, third = (alpha_t * integral for integral in _image_integrals(span, order))
    carried = sigma_t / sigma_s
    if not stochastic:
        return carried, first, second, third, 0.0

    if order == 3:
        # The names promise diffusers' results, and its stochastic third weight has -1/2 where the
        # integral has +1/2; only the optional order 3 of the SDE forms is touched.
        third -= alpha_t
    decay = math.exp(-h)
    fresh = sigma_t * math.sqrt(-math.expm1(-2 * h))
    return carried * decay, first, second, third, fresh


def _noise_weights(s: float, t: float, order: int, stochastic: bool) -> tuple[float, ...]:
    """Those of ``dpmsolver`` and its SDE form, from level ``s`` to ``t``."""
    alpha_s, _ = alpha_sigma(s)
    alpha_t, sigma_t = alpha_sigma(t)
    h = log_snr(t) - log_snr(s)

    scale = -2 * sigma_t if stochastic else -sigma_t
    first, second, third = (scale * integral for integral in _noise_integrals(h, order))
    fresh = 0.0
    if stochastic:
        fresh = sigma_t * math.sqrt(math.expm1(2 * h))
    return alpha_t / alpha_s, first, second, third, fresh


def _image_integrals(h: float, order: int) -> tuple[float, float, float]:
    """∫ e^(τ-h) τ^k/k! dτ over [0, h], scaled by h^-k, for k = 0, 1, 2: 2211.01095, appendix A."""
    first = -math.expm1(-h)
    if order == 1 or h == 0:
        return first, 0.0, 0.0

    second = 1 - first / h
    if order == 2:
        return first, second, 0.0
    third = 0.5 - (h - first) / h**2
    return first, second, third


def _noise_integrals(h: float, order: int) -> tuple[float, float, float]:
    """∫ e^(h-τ) τ^k/k! dτ over [0, h], scaled by h^-k, for k = 0, 1, 2: 2206.00927, appendix B."""
    first = math.expm1(h)
    if order == 1 or h == 0:
        return first, 0.0, 0.0

    second = first / h - 1
    if order == 2:
        return first, second, 0.0
    third = (first - h) / h**2 - 0.5
    return first, second, third


def checked_algorithm(algorithm: str | None, allowed: tuple[str, ...]) -> str:
    """``algorithm``, or the default ``dpmsolver++``; RequestError where this solver has no such form."""
    if algorithm is None:
        return "dpmsolver++"
    if algorithm not in allowed:
        raise RequestError("algorithm_type", algorithm, f"one of {', '.join(allowed)}")
    return algorithm


def checked_type(solver_type: str | None, own: tuple[str, ...], default: str) -> str:
    """``solver_type`` if it is one of a solver's ``own``, or RequestError.

    None and other solvers' types mean ``default``, as in diffusers.
    """
    if solver_type in own:
        return str(solver_type)
    if solver_type is None or solver_type in SOLVER_TYPES:
        return default
    raise RequestError("solver_type", solver_type, " or ".join(own))
