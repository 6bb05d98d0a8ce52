"""DPM-Solver and DPM-Solver++ in singlestep form: groups of one to three evaluations from one origin."""

from __future__ import annotations

from intarsia.errors import RequestError
from intarsia.schedulers.dpm_steps import checked_algorithm, checked_type, log_snr, prediction, weights
from intarsia.schedulers.rows import Problem, Rows
from intarsia.schedulers.tables import Array

FORMS = ("dpmsolver", "dpmsolver++", "sde-dpmsolver++")


def dpm_singlestep(problem: Problem) -> Rows:
    """Lu et al. 2022, DPM-Solver (arXiv 2206.00927), algorithms 1-2, and DPM-Solver++ 2S.

    ``N`` steps are N evaluations: a group of order 2 covers two levels from the sample at its first one,
    a group of order 3 three. Slots: sample, the group's origin, previous predictions, newest first.
    """
    options = problem.options
    algorithm = checked_algorithm(options.algorithm_type, FORMS)
    solver_type = checked_type(options.solver_type)
    highest = options.solver_order or 2
    rows = Rows(problem, slots=highest + 1, exploding=False)
    lower_final = options.lower_order_final or problem.sigmas[-1] == 0 or problem.steps % highest != 0
    orders = group_orders(problem.steps, highest, lower_final)
    if problem.sigmas[-1] == 0:
        orders[-1] = 1  # no higher order reaches an infinite signal-to-noise ratio
    for i in range(problem.start, problem.steps):
        order = min(orders[i], i - problem.start + 1)
        history = (prediction(rows, algorithm, problem.sigmas[i]), *rows.slots[2:])
        origin = rows.sample if order == 1 else rows.slots[1]
        ratios = problem.sigmas[i - order + 1 : i + 2]
        carried, *factors, fresh = weights(algorithm, (ratios[0], ratios[-1]), order, solver_type)
        sample = carried * origin + fresh * rows.noise
        for factor, difference in zip(factors, _differences(history, ratios, solver_type), strict=False):
            sample = sample + factor * difference
        rows.add(problem.timesteps[i], problem.sigmas[i], sample, origin, *history[: highest - 1])
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
    return group * groups + ([1, 1] if highest == 2 and left == 2 else [1, 2, 1][:left])


def _differences(history: tuple[Array, ...], ratios: tuple[float, ...], solver_type: str) -> list[Array]:
    """Estimates of h^k m^(k) at a group's origin, ``ratios[0]``, from its predictions (newest first)."""
    order = len(ratios) - 1
    if order == 1:
        return [history[0]]
    points = [log_snr(ratio) for ratio in ratios]
    h = points[-1] - points[0]
    far = (points[order - 1] - points[0]) / h
    base = history[order - 1]
    slope = (history[0] - base) / far
    if order == 2:
        return [base, slope]
    near = (points[1] - points[0]) / h
    if solver_type == "midpoint":
        return [base, slope]  # the paper's algorithm uses the farther difference alone at order 3
    early = (history[1] - base) / near
    return [base, (far * early - near * slope) / (far - near), 2 * (slope - early) / (far - near)]
