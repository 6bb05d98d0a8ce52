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
        sigma, target = run.sigmas[i : i + 2]
        order = min(highest, i - run.start + 1, final_order(run, i))
        newest = prediction(rows, algorithm, sigma)
        history = (newest, *rows.state[1:])

        oldest = i - order + 1
        terms = differences(history, run.sigmas[oldest : i + 2], order)
        carried, *factors, fresh = weights(algorithm, (sigma, target), order, solver_type)

        sample = carried * rows.sample + fresh * rows.noise
        for factor, term in zip(factors, terms, strict=False):
            sample = sample + factor * term
        rows.add(run.timesteps[i], sigma, sample, *history[: highest - 1])
    return rows


def differences(history: tuple[Array, ...], sigmas: tuple[float, ...], order: int) -> list[Array]:
    """Estimates of m, h m' and h² m''/2, up to ``order``, from predictions at ``sigmas`` (oldest first, end last).

    Divided differences in λ on unequal steps (arXiv 2211.01095, appendix B). The third is half of what its
    weight integrates, as in the authors' code and in diffusers: order 3 gains accuracy, not a third order.
    """
    m0 = history[0]
    if order == 1:
        return [m0]

    *earlier, before, here, end = [log_snr(sigma) for sigma in sigmas]
    h = end - here
    if h == 0:
        return [m0]

    m1 = history[1]
    r0 = (here - before) / h
    slope = (m0 - m1) / r0
    if order == 2:
        return [m0, slope]

    m2 = history[2]
    r1 = (before - earlier[-1]) / h
    earlier_slope = (m1 - m2) / r1
    second = (slope - earlier_slope) / (r0 + r1)
    return [m0, slope + r0 * second, second]


def final_order(run: SamplingRun, i: int) -> int:
    """The highest order allowed at step ``i`` by how near the end it is."""
    options = run.options
    left = run.steps - i
    stable = options.lower_order_final is not False and run.steps < FEW_STEPS

    ends_clean = run.sigmas[-1] == 0
    if left == 1 and (options.euler_at_final or stable or ends_clean):
        return 1
    if left == 2 and stable:
        return 2
    return 3
