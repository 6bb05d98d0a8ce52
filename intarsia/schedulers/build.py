"""A scheduler name and its settings → its table."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from intarsia.counted import counted
from intarsia.errors import RequestError
from intarsia.schedulers.names import NAMES, resolve, solver_of
from intarsia.schedulers.noise_schedule import NoiseSchedule, alpha_sigma
from intarsia.schedulers.rows import Rows, SamplingRun
from intarsia.schedulers.settings import (
    ResolvedScheduler,
    SchedulerRequest,
    checked_algorithm,
    checked_karras,
    checked_options,
    checked_prediction,
    checked_steps,
    checked_strength,
    resolve_request,
)
from intarsia.schedulers.spacing import levels
from intarsia.schedulers.tables import Array, Table

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
        name: a documented name or an alias (``NAMES``, ``ALIASES``), or that of a solver from outside.
        steps: of the whole schedule, 1 to the number of trained timesteps (1,000).
        karras: space the levels on Karras et al.'s curve, where the scheduler is defined on levels; None
            leaves it to ``schedule``.
        strength: above 0, at most 1; the last ``int(steps * strength)`` steps are run.
        algorithm_type: form of the DPM solvers.
        prediction_type: ``epsilon``, ``v_prediction`` or ``sample``; None is the schedule's.
        schedule: the model's noise; None is Stable Diffusion 1.5's.
        options: ``spacing`` (leading, trailing, linspace, karras, exponential), ``final_sigmas_type``,
            ``solver_order``, ``solver_type``, ``lower_order_final``, ``euler_at_final``, ``predict_x0``,
            ``eta``; a solver ignores those of others.

    Raises:
        RequestError: names the argument, its value and what is allowed.
    """
    schedule = _STABLE_DIFFUSION if schedule is None else schedule
    if prediction_type is None:
        prediction_type = schedule.prediction_type

    full_name = resolve(name)
    request = SchedulerRequest(
        name=full_name,
        solver=solver_of(full_name),
        steps=checked_steps(steps, schedule.num_train_timesteps),
        karras=checked_karras(karras),
        strength=checked_strength(strength),
        algorithm_type=checked_algorithm(algorithm_type),
        prediction_type=checked_prediction(prediction_type),
        schedule=schedule,
        options=checked_options(options),
    )
    return _build(request)


@lru_cache(maxsize=256)
def _build(request: SchedulerRequest) -> Table:
    resolved = resolve_request(request)
    steps = request.steps

    steps_run = min(int(steps * request.strength), steps)
    if steps_run < 1:
        message = f"strength {request.strength:g} leaves no step of {steps} to run: raise strength or steps"
        raise RequestError("strength", request.strength, message=message)

    grid = replace(request.solver.grid, final=resolved.final)
    visited = levels(request.schedule, grid, steps, resolved.spacing, resolved.curve)
    run = SamplingRun(
        timesteps=visited.timesteps,
        sigmas=visited.sigmas,
        start=steps - steps_run,
        prediction_type=request.prediction_type,
        options=resolved.options,
        schedule=request.schedule,
    )
    return _assemble(request, resolved, run, _solved(request, run))


def _solved(request: SchedulerRequest, run: SamplingRun) -> Rows:
    """The solver's rows. What goes wrong in a solver from outside the package is an error of the request."""
    if request.name in NAMES:
        return request.solver.rows(run)

    try:
        rows = request.solver.rows(run)
    except RequestError:
        raise
    except Exception as exc:
        raise _failure(request, f"{type(exc).__name__}: {exc}") from exc

    if not isinstance(rows, Rows) or not rows.updates:
        raise _failure(request, "it gave no rows")
    if not np.isfinite(rows.updates).all():
        raise _failure(request, "its coefficients are not finite")
    return rows


def _failure(request: SchedulerRequest, reason: str) -> RequestError:
    message = f"the solver of {request.name} failed for {counted(request.steps, 'step')}: {reason}"
    return RequestError("scheduler", request.name, message=message)


def _assemble(request: SchedulerRequest, resolved: ResolvedScheduler, run: SamplingRun, rows: Rows) -> Table:
    """The table of a solver's rows, with what they leave out: input scales, the known region, the start."""
    sigmas = np.array([*rows.sigmas, run.sigmas[-1]])
    matrix = np.array(rows.updates)
    start_image, start_noise = _start(request, resolved, run, rows)

    input_scale = np.ones(len(rows.sigmas))
    if rows.variance_exploding:
        input_scale = 1 / np.sqrt(1 + sigmas[:-1] ** 2)

    known_image, known_noise = _known_shares(rows)
    return Table(
        name=request.name,
        steps=request.steps,
        karras=resolved.karras,
        karras_applied=resolved.curve == "karras",
        notes=resolved.notes,
        timesteps=np.array(rows.timesteps),
        input_scale=input_scale,
        matrix=matrix,
        uses_noise=(matrix[:, :, -1] != 0).any(axis=1),
        start_image=start_image,
        start_noise=start_noise,
        known_image=known_image,
        known_noise=known_noise,
        langevin_snr=np.array(rows.langevin_snr),
        guided=np.array(rows.guided),
        sigmas=sigmas,
        strength=request.strength,
    )


def _known_shares(rows: Rows) -> tuple[Array, Array]:
    """Shares ``[R]`` of image and noise in the known region after each row."""
    shares = []
    for known, following in zip(rows.known, rows.sigmas[1:], strict=False):
        sigma = following if known is None else known
        shares.append(_shares(rows, sigma))
    shares.append((1.0, 0.0))  # after the last row the known region is the image itself

    image, noise = np.array(shares).T.copy()
    return image, noise


def _start(request: SchedulerRequest, resolved: ResolvedScheduler, run: SamplingRun, rows: Rows) -> tuple[float, float]:
    """Shares of clean image and unit noise that a run starts from, as in diffusers' inpainting pipelines."""
    if rows.start is not None:
        return rows.start
    if request.strength < 1:
        return _shares(rows, rows.sigmas[0])
    if not rows.variance_exploding:
        return 0.0, 1.0

    highest = run.sigmas[0]
    if resolved.spacing == "leading":
        # It starts below the last trained level, and the noise takes the missing image's place.
        return 0.0, math.hypot(highest, 1.0)
    return 0.0, highest


def _shares(rows: Rows, sigma: float) -> tuple[float, float]:
    """Shares of image and noise in a sample at ``sigma``."""
    if rows.variance_exploding:
        return 1.0, sigma
    return alpha_sigma(sigma)
