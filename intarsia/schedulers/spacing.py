"""Which noise levels a run visits: the spacing of its steps, apart from the solver that takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from intarsia.errors import RequestError
from intarsia.schedulers.noise_schedule import FinalSigma, NoiseSchedule, Spacing
from intarsia.schedulers.tables import Array

Curve = Literal["karras", "exponential"]
"""Curves of noise levels: Karras et al. 2022 (EDM), eq. 5; evenly in log σ."""
GridSpacing = Spacing | Literal["distilled"]
GridFinal = FinalSigma | Literal["alpha"]

CURVES: tuple[Curve, ...] = get_args(Curve)
DISTILLED = 50


@dataclass(frozen=True)
class Levels:
    """``N`` timesteps, and N+1 noise-to-signal ratios: theirs and the final one. Both decrease."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How a family of solvers lays its steps on the training timesteps.

    Attributes:
        spacing: the family's default of leading, trailing, linspace.
        whole: timesteps are rounded to trained ones (DPM-Solver, DDIM), or fractional (k-diffusion).
        open_end: N+1 points are spread and the cleanest is left to the final level (DPM-Solver), or N points.
        full_range: a curve spans all trained levels (DPM-Solver), or those that the spacing reaches.
        final: the level that the last step ends at: ``zero``; ``sigma_min``, the cleanest trained one; or
            ``alpha``, as the schedule's ``set_alpha_to_one`` says (DDIM, PNDM).
        choices: what a model's configuration may change: its spacing, its final level.
        curve: the one that the family is defined on; None where it is defined on no curve.
        round_karras: timesteps are rounded on the Karras curve although they are fractional otherwise.
    """

    spacing: GridSpacing = "linspace"
    whole: bool = False
    open_end: bool = False
    full_range: bool = False
    final: GridFinal = "zero"
    choices: tuple[str, ...] = ("spacing",)
    curve: Curve | None = None
    round_karras: bool = False


def levels(schedule: NoiseSchedule, grid: Grid, steps: int, spacing: GridSpacing, curve: Curve | None) -> Levels:
    """The levels of ``steps`` steps; ``curve`` replaces the spaced sigmas by a curve between their ends."""
    timesteps = _spaced(schedule, grid, steps, spacing)
    sigmas = schedule.sigma_of(timesteps)

    if curve is not None:
        noisiest, cleanest = sigmas[0], sigmas[-1]
        if grid.full_range:
            noisiest, cleanest = schedule.sigmas[-1], schedule.sigmas[0]
        sigmas = _curve(curve, float(noisiest), float(cleanest), steps)
        timesteps = _timesteps_on_curve(schedule, grid, sigmas, curve)

    ends_clean = grid.final == "alpha" and schedule.set_alpha_to_one
    last = float(schedule.sigmas[0])
    if grid.final == "zero" or ends_clean:
        last = 0.0

    increases = np.diff(sigmas) >= 0
    if increases.any():
        raise RequestError("steps", steps, f"fewer: two of its noise levels coincide with {spacing} spacing")
    return Levels(
        timesteps=tuple(timesteps.tolist()),
        sigmas=(*sigmas.tolist(), last),
    )


def _timesteps_on_curve(schedule: NoiseSchedule, grid: Grid, sigmas: Array, curve: Curve) -> Array:
    """Timesteps of ``sigmas``, which lie on ``curve``: fractional, or whole where the grid's are."""
    timesteps = schedule.timestep_of(sigmas)
    if curve == "karras" and (grid.whole or grid.round_karras):
        return timesteps.round()
    if not grid.whole:
        return timesteps

    # diffusers truncates on the exponential curve, and its rounding errors leave the first point just short
    # of the last trained timestep.
    just_short = np.maximum(timesteps - 1e-6, 0)
    return np.floor(just_short)


def _spaced(schedule: NoiseSchedule, grid: Grid, steps: int, spacing: GridSpacing) -> Array:
    """Timesteps from noisy to clean (Lin et al. 2024, "Common Diffusion Noise Schedules…", table 2)."""
    trained = schedule.num_train_timesteps
    last = trained - 1
    points = steps + 1 if grid.open_end else steps

    if spacing == "linspace":
        timesteps = np.linspace(0, last, points)[::-1]
        if grid.whole:
            timesteps = timesteps.round()
        return timesteps[:steps]

    if spacing == "leading":
        stride = trained // points
        noisy_first = np.arange(points, dtype=np.float64)[::-1]
        timesteps = noisy_first[:steps] * stride + schedule.steps_offset
        # An offset may not reach past the last trained timestep (steps = trained, offset 1).
        return np.clip(timesteps, 0, last)

    if spacing == "distilled":
        return _distilled(trained, steps)

    trailing = np.arange(trained, 0, -trained / steps).round()
    return trailing[:steps] - 1


def _distilled(trained: int, steps: int) -> Array:
    """A subset of the 50 timesteps that consistency models are distilled on (Luo et al. 2023, LCM, section 4.3)."""
    if steps > DISTILLED:
        raise RequestError("steps", steps, f"at most {DISTILLED} for a consistency model's timesteps")

    stride = trained // DISTILLED
    noisy_first = np.arange(1, DISTILLED + 1, dtype=np.float64)[::-1]
    timesteps = noisy_first * stride - 1

    places = np.linspace(0, DISTILLED, steps, endpoint=False)
    subset = np.floor(places).astype(np.int64)
    return timesteps[subset]


def _curve(curve: Curve, sigma_max: float, sigma_min: float, steps: int) -> Array:
    """Sigmas between two ends: Karras et al. 2022 (EDM), eq. 5 with ρ = 7; or evenly in log σ."""
    if curve == "exponential":
        logs = np.linspace(math.log(sigma_max), math.log(sigma_min), steps)
        return np.exp(logs)

    rho = 7
    roots: Array = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps)
    return np.power(roots, rho)
