"""DPM-Solver and DPM-Solver++ in singlestep form: groups of one to three evaluations from one origin."""

from __future__ import annotations

from intarsia.errors import RequestError
from intarsia.schedulers.dpm_steps import TYPES, checked_algorithm, checked_type, prediction, weights
from intarsia.schedulers.noise_schedule import log_snr
from intarsia.schedulers.rows import Rows, SamplingRun
from intarsia.schedulers.tables import Array

FORMS = ("dpmsolver", "dpmsolver++", "sde-dpmsolver++")


def dpm_singlestep(run: SamplingRun) -> Rows:
    """Lu et al. 2022, DPM-Solver (arXiv 2206.00927), algorithms 1-2, and DPM-Solver++ 2S.

    ``N`` steps are N evaluations: a group of order 2 covers two levels from the sample at its first one,
    a group of order 3 three. State: sample, the group's origin, previous predictions, newest first.
    """
    options = run.options
    algorithm = checked_algorithm(options.algorithm_type, FORMS)
    solver_type = checked_type(options.solver_type, TYPES, "midpoint")
    highest = options.solver_order or 2
    rows = Rows(run, state_slots=highest + 1, variance_exploding=False)

    ends_clean = run.sigmas[-1] == 0
    is_uneven = run.steps % highest != 0
    lower_final = options.lower_order_final or ends_clean or is_uneven
    orders = group_orders(run.steps, highest, lower_final)
    if ends_clean:
        orders[-1] = 1  # no higher order reaches an infinite signal-to-noise ratio

    for i in range(run.start, run.steps):
        order = min(orders[i], i - run.start + 1)
        newest = prediction(rows, algorithm, run.sigmas[i])
        history = (newest, *rows.state[2:])
        origin = rows.sample if order == 1 else rows.state[1]

        sigmas = run.sigmas[i - order + 1 : i + 2]
        terms = _differences(history, sigmas, solver_type)
        carried, *factors, fresh = weights(algorithm, (sigmas[0], sigmas[-1]), order, solver_type)

        sample = carried * origin + fresh * rows.noise
        for factor, term in zip(factors, terms, strict=False):
            sample = sample + factor * term
        rows.add(run.timesteps[i], run.sigmas[i], sample, origin, *history[: highest - 1])
    return rows


def group_orders(steps: int, highest: int, lower_final: bool) -> list[int]:
    """Order of each of ``steps`` evaluations: 1, 2, … within a group; what is left over goes at low order.

    With ``lower_final`` a last whole group is broken up too.
    """
    if highest not in (1, 2, 3):
        raise RequestError("solver_order", highest, "1, 2 or 3")
    if highest == 1:
        return [1] * steps

    group = list(range(1, highest + 1))
    if not lower_final:
        return group * (steps // highest)

    groups = (steps - 1) // highest
    left = steps - groups * highest
    rest = [1, 2, 1][:left]
    if highest == 2 and left == 2:
        rest = [1, 1]
    return group * groups + rest


def _differences(history: tuple[Array, ...], sigmas: tuple[float, ...], solver_type: str) -> list[Array]:
    """Estimates of h^k m^(k) at a group's origin, ``sigmas[0]``, from its predictions (newest first)."""
    order = len(sigmas) - 1
    newest, base = history[0], history[order - 1]
    if order == 1:
        return [base]

    start, *between, end = [log_snr(sigma) for sigma in sigmas]
    h = end - start
    r2 = (between[-1] - start) / h
    slope = (newest - base) / r2
    if order == 2 or solver_type == "midpoint":
        return [base, slope]  # the paper's algorithm uses the farther difference alone at order 3

    r1 = (between[0] - start) / h
    early_slope = (history[1] - base) / r1
    first = (r2 * early_slope - r1 * slope) / (r2 - r1)
    second = 2 * (slope - early_slope) / (r2 - r1)
    return [base, first, second]
