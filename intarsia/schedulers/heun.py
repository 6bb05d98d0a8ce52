"""Heun's method on the probability-flow ODE: two evaluations a step, one in the last."""

from __future__ import annotations

from intarsia.schedulers.rows import Rows, SamplingRun


def heun(run: SamplingRun) -> Rows:
    """Trapezoidal correction of an Euler step (Karras et al. 2022, EDM, algorithm 1).

    State: sample, the step's starting sample, the slope there. A step that ends at σ = 0 is plain Euler.
    """
    rows = Rows(run, state_slots=3, variance_exploding=True)
    _, origin, slope = rows.state
    for i in range(run.start, run.steps):
        sigma, target = run.sigmas[i : i + 2]
        first = rows.epsilon(sigma)
        rows.add(run.timesteps[i], sigma, rows.sample + (target - sigma) * first, rows.sample, first)

        if i + 1 < run.steps:
            corrected = origin + (target - sigma) / 2 * (slope + rows.epsilon(target))
            rows.add(run.timesteps[i + 1], target, corrected, rows.zero, rows.zero)
    return rows
