"""PNDM's linear multistep form (PLMS): N+1 evaluations for N steps."""

from __future__ import annotations

from intarsia.schedulers.noise_schedule import alpha_sigma
from intarsia.schedulers.rows import Rows, SamplingRun
from intarsia.schedulers.tables import Array

# Adams-Bashforth weights, newest first (Liu et al. 2022, PNDM, arXiv 2202.09778, eq. 12 and appendix).
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def pndm(run: SamplingRun) -> Rows:
    """Pseudo linear multistep on ε, started by a second evaluation of the first step instead of Runge-Kutta.

    State: sample, previous outputs, newest first; between the first two rows slot 2 holds the first
    sample. The evaluated levels are 0, 1, 1, 2, 3 …: a run that starts later follows the same list from
    its first entry on, as diffusers' pipelines do, so that below full strength one level is passed over.
    """
    rows = Rows(run, state_slots=4, variance_exploding=False)
    output = rows.output
    sample, first, second, third = rows.state

    visits = list(range(run.steps))
    if run.steps > 1:
        visits.insert(1, 1)

    for count, level in enumerate(visits[run.start :]):
        state: tuple[Array, ...]
        if count == 0:
            moved = _transfer(rows, run, level, sample, output)
            state = (moved, output, sample, rows.zero)
        elif count == 1:
            mean = (output + first) / 2
            moved = _transfer(rows, run, level - 1, second, mean)
            state = (moved, first, rows.zero, rows.zero)
        else:
            history = (output, first, second, third)
            mixed = adams_bashforth(rows, history, count)
            moved = _transfer(rows, run, level, sample, mixed)
            state = (moved, output, first, second)
        rows.add(run.timesteps[level], run.sigmas[level], *state)
    return rows


def adams_bashforth(rows: Rows, history: tuple[Array, ...], order: int) -> Array:
    """The outputs of ``history``, newest first, extrapolated at ``order``, at most 4."""
    weights = ADAMS_BASHFORTH[min(order, 4) - 1]
    mixed = rows.zero
    for weight, output in zip(weights, history, strict=False):
        mixed = mixed + weight * output
    return mixed


def _transfer(rows: Rows, run: SamplingRun, level: int, sample: Array, output: Array) -> Array:
    """PNDM's transfer from ``level`` to the next one (eq. 11), which is DDIM's step."""
    level_sigma, target = run.sigmas[level : level + 2]
    image = rows.image(level_sigma, sample, output)
    epsilon = rows.epsilon(level_sigma, sample, output)

    alpha, sigma = alpha_sigma(target)
    return alpha * image + sigma * epsilon
