"""Heun's method on the probability-flow ODE: two evaluations a step, one in the last."""

from __future__ import annotations

from intarsia.schedulers.rows import Problem, Rows


def heun(problem: Problem) -> Rows:
    """Trapezoidal correction of an Euler step (Karras et al. 2022, EDM, algorithm 1).

    Slots: sample, the step's starting sample, the slope there. A step that ends at σ = 0 is plain Euler.
    """
    rows = Rows(problem, slots=3, exploding=True)
    _, origin, slope = rows.slots
    for i in range(problem.start, problem.steps):
        sigma, target = problem.sigmas[i : i + 2]
        first = rows.epsilon(sigma)
        rows.add(problem.timesteps[i], sigma, rows.sample + (target - sigma) * first, rows.sample, first)
        if i + 1 < problem.steps:
            corrected = origin + (target - sigma) / 2 * (slope + rows.epsilon(target))
            rows.add(problem.timesteps[i + 1], target, corrected, rows.zero, rows.zero)
    return rows
