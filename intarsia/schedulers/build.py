"""A scheduler name and its settings → its table."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from intarsia.errors import RequestError
from intarsia.schedulers.dpm_steps import alpha_sigma
from intarsia.schedulers.names import resolve
from intarsia.schedulers.noise_schedule import NoiseSchedule
from intarsia.schedulers.rows import Problem, Rows
from intarsia.schedulers.settings import (
    Asked,
    Settled,
    checked_algorithm,
    checked_karras,
    checked_options,
    checked_prediction,
    checked_steps,
    checked_strength,
    settle,
)
from intarsia.schedulers.solvers import SOLVERS
from intarsia.schedulers.spacing import levels
from intarsia.schedulers.tables import Table

_STABLE_DIFFUSION = NoiseSchedule()


def table(
    name: str,
    steps: int,
    *,
    karras: bool | None = False,
    strength: float = 1.0,
    algorithm_type: str | None = None,
    prediction_type: str | None = None,
    schedule: NoiseSchedule | None = None,
    **options: Any,
) -> Table:
    """The table of ``steps`` steps of the scheduler ``name``; cached, so equal calls give the same object.

    Args:
        name: a documented name or an alias (``NAMES``, ``ALIASES``).
        steps: of the whole schedule, 1 to the number of trained timesteps (1,000).
        karras: space the levels on Karras et al.'s curve, where the scheduler is defined on levels; None
            leaves it to ``schedule``.
        strength: above 0, at most 1; the last ``int(steps * strength)`` steps are run.
        algorithm_type: form of the DPM solvers.
        prediction_type: ``epsilon``, ``v_prediction`` or ``sample``; None is the schedule's.
        schedule: the model's noise; None is Stable Diffusion 1.5's.
        options: ``spacing`` (leading, trailing, linspace, karras, exponential), ``final_sigmas_type``,
            ``solver_order``, ``solver_type``, ``lower_order_final``, ``euler_at_final``, ``predict_x0``,
            ``eta``; a solver ignores what is not its own.

    Raises:
        RequestError: names the argument, its value and what is allowed.
    """
    schedule = _STABLE_DIFFUSION if schedule is None else schedule
    asked = Asked(
        resolve(name),
        checked_steps(steps, schedule.num_train_timesteps),
        checked_karras(karras),
        checked_strength(strength),
        checked_algorithm(algorithm_type),
        checked_prediction(schedule.prediction_type if prediction_type is None else prediction_type),
        schedule,
        checked_options(options),
    )
    return _built(asked)


@lru_cache(maxsize=256)
def _built(asked: Asked) -> Table:
    solver, settled, steps = SOLVERS[asked.name], settle(asked), asked.steps
    run = min(int(steps * asked.strength), steps)
    if run < 1:
        message = f"strength {asked.strength:g} leaves no step of {steps} to run: raise strength or steps"
        raise RequestError("strength", asked.strength, message=message)
    grid = replace(solver.grid, final=settled.final)
    visited = levels(asked.schedule, grid, steps, settled.spacing, settled.curve)
    problem = Problem(
        timesteps=visited.timesteps,
        sigmas=visited.sigmas,
        start=steps - run,
        prediction_type=asked.prediction_type,
        options=settled.options,
        schedule=asked.schedule,
    )
    return _assembled(asked, settled, problem, solver.rows(problem))


def _assembled(asked: Asked, settled: Settled, problem: Problem, rows: Rows) -> Table:
    sigmas = np.array([*rows.sigmas, problem.sigmas[-1]])
    matrix = np.array(rows.states)
    start_image, start_noise = _start(asked, settled, problem, rows)
    # After the last row the known region is the image itself.
    after = [following if own is None else own for own, following in zip(rows.known, rows.sigmas[1:], strict=False)]
    known = np.array([*(_shares(rows, sigma) for sigma in after), (1.0, 0.0)])
    return Table(
        name=asked.name,
        steps=asked.steps,
        karras=settled.karras,
        karras_applied=settled.curve == "karras",
        notes=settled.notes,
        timesteps=np.array(rows.timesteps),
        input_scale=1 / np.sqrt(1 + sigmas[:-1] ** 2) if rows.exploding else np.ones(len(rows.sigmas)),
        matrix=matrix,
        uses_noise=(matrix[:, :, -1] != 0).any(axis=1),
        start_image=start_image,
        start_noise=start_noise,
        known_image=known[:, 0].copy(),
        known_noise=known[:, 1].copy(),
        langevin_snr=np.array(rows.langevin_snr),
        guided=np.array(rows.guided),
        sigmas=sigmas,
    )


def _start(asked: Asked, settled: Settled, problem: Problem, rows: Rows) -> tuple[float, float]:
    """Shares of clean image and unit noise that a run starts from, as in diffusers' inpainting pipelines."""
    if rows.start is not None:
        return rows.start
    if asked.strength < 1:
        return _shares(rows, rows.sigmas[0])
    if not rows.exploding:
        return 0.0, 1.0
    highest = problem.sigmas[0]
    # Leading spacing starts below the last trained level, and the noise takes the missing image's place.
    return 0.0, math.hypot(highest, 1.0) if settled.spacing == "leading" else highest


def _shares(rows: Rows, sigma: float) -> tuple[float, float]:
    """Shares of image and noise in a sample at ratio ``sigma``."""
    return (1.0, sigma) if rows.exploding else alpha_sigma(sigma)
