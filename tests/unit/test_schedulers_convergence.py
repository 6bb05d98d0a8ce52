"""Order of convergence, measured on data whose probability-flow ODE has a closed solution.

For data N(μ, s²) the exact network is ε(x, σ) = σ (x - μ) / (s² + σ²), and x - μ shrinks as √(s² + σ²). A
solver of order p has an error that falls by 2^p when its step is halved. ``pytest -s`` prints the numbers.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from intarsia.schedulers import table

MEAN, SPREAD = 0.7, 0.6


def error(name: str, steps: int, until: float | None, options: Any) -> float:
    """Largest error where the run reaches timestep ``until`` (None: before its last step, which is of order 1)."""
    made = table(name, steps, **options)
    first = made.sigmas[0]
    offset = np.sqrt(SPREAD**2 + first**2) * np.linspace(-2, 2, 9)
    preserving = bool((made.input_scale == 1).all())  # the sample is scaled by √ᾱ
    state = np.zeros((made.state_slots, offset.size))
    state[0] = (MEAN + offset) / (np.sqrt(1 + first**2) if preserving else 1)
    stop = len(made) - 1 if until is None else int(np.flatnonzero(made.timesteps == until)[-1])
    for row in range(stop):
        sigma = made.sigmas[row]
        x = made.input_scale[row] * state[0] * np.sqrt(1 + sigma**2)
        output = sigma * (x - MEAN) / (SPREAD**2 + sigma**2)
        state = made.matrix[row] @ np.stack([*state, output, 0 * output])
    sigma = made.sigmas[stop]
    reached = state[0] * (np.sqrt(1 + sigma**2) if preserving else 1)
    wanted = MEAN + offset * np.sqrt((SPREAD**2 + sigma**2) / (SPREAD**2 + first**2))
    return float(np.abs(reached - wanted).max())


EVEN = {"spacing": "exponential"}  # equal steps in λ
KARRAS = {"karras": True}


@pytest.mark.parametrize(
    ("name", "options", "order", "until"),
    [
        ("EulerDiscreteScheduler", KARRAS, 1, None),
        ("DDIMScheduler", {}, 1, 501),
        ("HeunDiscreteScheduler", KARRAS, 2, None),
        ("KDPM2DiscreteScheduler", KARRAS, 2, None),
        ("DPMSolverMultistepScheduler", EVEN, 2, None),
        ("DPMSolverMultistepScheduler", KARRAS, 2, None),
        ("DPMSolverMultistepScheduler", {**EVEN, "algorithm_type": "dpmsolver"}, 2, None),
        ("DPMSolverMultistepScheduler", {**EVEN, "solver_order": 1}, 1, None),
        # diffusers' third-order multistep weight counts its second difference once, not twice.
        ("DPMSolverMultistepScheduler", {**EVEN, "solver_order": 3}, 2, None),
        ("DPMSolverSinglestepScheduler", EVEN, 2, None),
        ("DPMSolverSinglestepScheduler", {**EVEN, "solver_order": 3}, 3, None),
        ("DPMSolverSinglestepScheduler", {**EVEN, "solver_order": 3, "solver_type": "heun"}, 2.9, None),
        # Correcting raises the order by one: order 2 predicts at 2 and corrects at 3.
        ("UniPCMultistepScheduler", {**EVEN, "solver_order": 1}, 2, None),
        ("UniPCMultistepScheduler", EVEN, 3, None),
        ("DEISMultistepScheduler", EVEN, 2, None),
        # Limited by its first step, which is of order 1.
        ("DEISMultistepScheduler", {**EVEN, "solver_order": 3}, 2.5, None),
        ("LMSDiscreteScheduler", KARRAS, 3.5, None),
        # "Pseudo" methods of fourth order are of second order in the step (Liu et al. 2022, theorem 3.2).
        ("PNDMScheduler", {}, 2, 501),
        ("IPNDMScheduler", {}, 2, 499),
    ],
)
def test_halving_the_step_shows_the_solvers_order(name, options, order, until):
    counts = (50, 100, 200) if until else (48, 96, 192)
    errors = [error(name, steps, until, options) for steps in counts]
    observed = [float(np.log2(coarse / fine)) for coarse, fine in pairwise(errors)]
    print(f"{name} {options}: errors {errors[0]:.1e} … {errors[-1]:.1e}, orders {observed[0]:.2f} {observed[1]:.2f}")
    assert np.mean(observed) >= order - 0.15
    assert errors[-1] < 0.02
