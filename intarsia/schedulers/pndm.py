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
    visits = [0, *([1] if run.steps > 1 else []), *range(1, run.steps)]

    for count, level in enumerate(visits[run.start :]):
        out, first, second, third = rows.output, *rows.state[1:]
        state: tuple[Array, ...]
        if count == 0:
            sample = _transfer(rows, run, level, rows.sample, out)
            state = (sample, out, rows.sample, rows.zero)
        elif count == 1:
            sample = _transfer(rows, run, level - 1, second, (out + first) / 2)
            state = (sample, first, rows.zero, rows.zero)
        else:
            history = (out, first, second, third)
            mixed = sum((w * m for w, m in zip(ADAMS_BASHFORTH[min(count, 4) - 1], history, strict=False)), rows.zero)
            state = (_transfer(rows, run, level, rows.sample, mixed), out, first, second)
        rows.add(run.timesteps[level], run.sigmas[level], *state)
    return rows


def _transfer(rows: Rows, run: SamplingRun, level: int, sample: Array, output: Array) -> Array:
    """PNDM's transfer from ``level`` to the next one (eq. 11), which is DDIM's step."""
    alpha, sigma = alpha_sigma(run.sigmas[level + 1])
    image = rows.image(run.sigmas[level], sample, output)
    return alpha * image + sigma * rows.epsilon(run.sigmas[level], sample, output)
