"""DPM-Solver-2 in σ: a midpoint step whose midpoint is geometric, and its ancestral variant."""

from __future__ import annotations

import math

from intarsia.schedulers.euler import ancestral_split
from intarsia.schedulers.rows import Rows, SamplingRun


def kdpm2(run: SamplingRun) -> Rows:
    """The midpoint method in log σ (Karras et al. 2022, EDM, algorithm 2 with α = 1/2 in log σ; Lu et al. 2022)."""
    return _midpoint(run, ancestral=False)


def kdpm2_ancestral(run: SamplingRun) -> Rows:
    """The same step past the next level, then noise back up to it (as :func:`~.euler.euler_ancestral` does)."""
    return _midpoint(run, ancestral=True)


def _midpoint(run: SamplingRun, ancestral: bool) -> Rows:
    """State: sample, the step's starting sample. A step that ends at σ = 0 is plain Euler."""
    rows = Rows(run, state_slots=2, variance_exploding=True)
    _, origin = rows.state

    for i in range(run.start, run.steps):
        sigma, target = run.sigmas[i : i + 2]
        up, down = 0.0, target
        if ancestral:
            up, down = ancestral_split(sigma, target)

        middle = math.sqrt(sigma * down)
        half = rows.sample + (middle - sigma) * rows.epsilon(sigma)
        # diffusers gives the known region the step's end level already at the midpoint.
        rows.add(run.timesteps[i], sigma, half, rows.sample, known=target)

        if down > 0:
            end = origin + (down - sigma) * rows.epsilon(middle) + up * rows.noise
            timestep = run.timestep_of(middle)
            rows.add(timestep, middle, end, rows.zero, known=target)
    return rows
