"""DPM-Solver and DPM-Solver++ in multistep form: one evaluation a step, history of the last two."""

from __future__ import annotations

from intarsia.errors import RequestError
from intarsia.schedulers.dpm_steps import ALGORITHMS, TYPES, checked_algorithm, checked_type, prediction, weights
from intarsia.schedulers.noise_schedule import log_snr
from intarsia.schedulers.rows import Rows, SamplingRun
from intarsia.schedulers.tables import Array

FEW_STEPS = 15  # below this many the last steps fall back to lower orders, which is stabler


def dpm_multistep(run: SamplingRun) -> Rows:
    """Lu et al. 2022, DPM-Solver++ (arXiv 2211.01095), algorithm 2 (2M), its order 3 and its SDE forms.

    State: sample, then the previous predictions, newest first. The first steps have no history and run at
    lower order, wherever in the schedule they begin.
    """
    options = run.options
    algorithm = checked_algorithm(options.algorithm_type, ALGORITHMS)
    solver_type = checked_type(options.solver_type, TYPES, "midpoint")
    highest = options.solver_order or 2
    if algorithm == "sde-dpmsolver" and highest == 3:
        raise RequestError("solver_order", 3, "1 or 2 for sde-dpmsolver")

    rows = Rows(run, state_slots=highest, variance_exploding=False)

    for i in range(run.start, run.steps):
        order = min(highest, i - run.start + 1, final_order(run, i))
        newest = prediction(rows, algorithm, run.sigmas[i])
        history = (newest, *rows.state[1:])
        sigmas = run.sigmas[max(i - order + 1, 0) : i + 2]

        carried, *factors, fresh = weights(algorithm, (run.sigmas[i], run.sigmas[i + 1]), order, solver_type)
        sample = carried * rows.sample + fresh * rows.noise
        for factor, difference in zip(factors, differences(history, sigmas, order), strict=False):
            sample = sample + factor * difference
        rows.add(run.timesteps[i], run.sigmas[i], sample, *history[: highest - 1])
    return rows


def differences(history: tuple[Array, ...], sigmas: tuple[float, ...], order: int) -> list[Array]:
    """Estimates of m, h m' and h² m''/2, up to ``order``, from predictions at ``sigmas`` (oldest first, end last).

    Divided differences in λ on unequal steps (arXiv 2211.01095, appendix B). The third is half of what its
    weight integrates, as in the authors' code and in diffusers: order 3 gains accuracy, not a third order.
    """
    if order == 1:
        return [history[0]]
    points = [log_snr(sigma) for sigma in sigmas]
    h = points[-1] - points[-2]
    if h == 0:
        return [history[0]]

    near = (points[-2] - points[-3]) / h
    slope = (history[0] - history[1]) / near
    if order == 2:
        return [history[0], slope]

    far = (points[-3] - points[-4]) / h
    bend = (slope - (history[1] - history[2]) / far) / (near + far)
    return [history[0], slope + near * bend, bend]


def final_order(run: SamplingRun, i: int) -> int:
    """The highest order allowed at step ``i`` by how near the end it is."""
    options, left = run.options, run.steps - i
    stable = options.lower_order_final is not False and run.steps < FEW_STEPS
    if left == 1 and (options.euler_at_final or stable or run.sigmas[-1] == 0):
        return 1
    return 2 if left == 2 and stable else 3
