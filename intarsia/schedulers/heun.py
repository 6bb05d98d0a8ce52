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
        step = target - sigma
        epsilon = rows.epsilon(sigma)
        euler = rows.sample + step * epsilon
        rows.add(run.timesteps[i], sigma, euler, rows.sample, epsilon)

        if i + 1 < run.steps:
            slopes = slope + rows.epsilon(target)
            corrected = origin + step / 2 * slopes
            rows.add(run.timesteps[i + 1], target, corrected, rows.zero, rows.zero)
    return rows
