"""A scheduler's settings: as requested, checked one by one; and as resolved for its solver."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from intarsia.errors import RequestError
from intarsia.schedulers.dpm_steps import ALGORITHMS
from intarsia.schedulers.noise_schedule import (
    FINAL_SIGMAS,
    PREDICTION_TYPES,
    SPACINGS,
    NoiseSchedule,
    PredictionType,
)
from intarsia.schedulers.rows import Options
from intarsia.schedulers.solvers import Solver
from intarsia.schedulers.spacing import CURVES, Curve, GridFinal, GridSpacing

Choice = TypeVar("Choice")

DEFAULT_ALGORITHM = ("", "none", "no")
ALGORITHM_SPELLINGS = {"dpmsolver+++": "sde-dpmsolver++"}  # as the hosted endpoints' documents write it
SOLVER_OPTIONS = tuple(field.name for field in fields(Options) if field.name != "algorithm_type")
OPTIONS = ("spacing", "final_sigmas_type", *SOLVER_OPTIONS)


@dataclass(frozen=True, kw_only=True)
class SchedulerRequest:
    """The arguments of :func:`intarsia.schedulers.table`, checked one by one and hashable."""

    name: str
    solver: Solver
    steps: int
    karras: bool | None
    strength: float
    algorithm_type: str | None
    prediction_type: PredictionType
    schedule: NoiseSchedule
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class ResolvedScheduler:
    """A request with the model's configuration and the solver's defaults filled in.

    Attributes:
        karras: Karras sigmas were requested, by the caller or the configuration.
        spacing: of the steps over the trained timesteps.
        curve: that the sigmas follow instead; None leaves them where the spacing puts them.
        final: the level that the last step ends at.
        options: the solver's own settings.
        notes: sentences for the result.
    """

    karras: bool
    spacing: GridSpacing
    curve: Curve | None
    final: GridFinal
    options: Options
    notes: tuple[str, ...]


def checked_steps(steps: object, most: int) -> int:
    """``steps`` as an int between 1 and ``most``, or RequestError."""
    if isinstance(steps, bool) or not isinstance(steps, Integral) or not 1 <= int(steps) <= most:
        raise RequestError("steps", steps, f"a whole number between 1 and {most}")
    return int(steps)


def checked_strength(strength: object) -> float:
    """``strength`` as a float above 0 and at most 1, or RequestError."""
    is_number = isinstance(strength, Real) and not isinstance(strength, bool)
    # Compared as it is: an integer may be too large for a float.
    if not is_number or not 0 < strength <= 1:  # type: ignore[operator]
        raise RequestError("strength", strength, "above 0 and at most 1")
    return float(strength)  # type: ignore[arg-type]


def checked_karras(karras: object) -> bool | None:
    """``karras`` if it is true, false or None, or RequestError."""
    if karras is None or isinstance(karras, bool):
        return karras
    raise RequestError("karras", karras, "true or false")


def checked_algorithm(algorithm: object) -> str | None:
    """diffusers' name of the form that ``algorithm`` means, None for the default, or RequestError."""
    if algorithm is None:
        return None
    if isinstance(algorithm, str):
        name = algorithm.strip().lower()
        name = ALGORITHM_SPELLINGS.get(name, name)
        if name in DEFAULT_ALGORITHM:
            return None
        if name in ALGORITHMS:
            return name

    known = ", ".join(("none", *ALGORITHMS, *ALGORITHM_SPELLINGS))
    raise RequestError("algorithm_type", algorithm, f"one of {known}")


def checked_prediction(prediction: object) -> PredictionType:
    """``prediction`` if it is a known kind of network output, or RequestError."""
    return _choice("prediction_type", prediction, PREDICTION_TYPES)


def checked_options(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """``options`` without those left at None, sorted; RequestError for an unknown one or an impossible value."""
    unknown = set(options) - set(OPTIONS)
    for key in sorted(unknown):
        message = f"{key} is not an option of a scheduler; the options are {', '.join(OPTIONS)}"
        if key in ("clip_sample", "thresholding"):
            message = f"{key} is not supported: it makes a step non-linear, and a table is linear"
        raise RequestError(key, options[key], message=message)

    present = {key: value for key, value in options.items() if value is not None}
    _choice("spacing", present.get("spacing", "karras"), (*SPACINGS, *CURVES))
    _choice("final_sigmas_type", present.get("final_sigmas_type", "zero"), FINAL_SIGMAS)
    _choice("solver_order", present.get("solver_order", 1), (1, 2, 3))
    for key in ("lower_order_final", "euler_at_final", "predict_x0"):
        _choice(key, present.get(key, True), (True, False))

    eta = present.get("eta", 0.0)
    is_number = isinstance(eta, Real) and not isinstance(eta, bool)
    if not is_number or not 0 <= float(eta) <= 1:
        raise RequestError("eta", eta, "between 0 and 1")
    return tuple(sorted(present.items()))


def resolve_request(request: SchedulerRequest) -> ResolvedScheduler:
    """Fill in what ``request`` leaves open. RequestError for settings that contradict each other."""
    solver = request.solver
    notes = [solver.note] if solver.note else []

    karras = request.karras
    if karras is None:
        karras = bool(_configured(request).get("use_karras_sigmas")) and solver.curves
    curve = _curve(request, karras, notes)

    if request.algorithm_type is not None and not solver.algorithms:
        form = request.algorithm_type
        notes.append(f"algorithm_type {form} was not applied: it is for the DPM solvers, not {request.name}")

    options = _solver_options(request)
    return ResolvedScheduler(
        karras=karras,
        spacing=_spacing(request),
        curve=curve,
        final=_final(request, options),
        options=options,
        notes=tuple(notes),
    )


def _configured(request: SchedulerRequest) -> dict[str, Any]:
    """Solver settings of the model's configuration."""
    return dict(request.schedule.options)


def _spacing(request: SchedulerRequest) -> GridSpacing:
    """The spacing that is requested, else the model's, else the solver's."""
    grid = request.solver.grid
    requested = dict(request.options).get("spacing")
    for spacing in SPACINGS:
        if requested == spacing:
            return spacing

    if "spacing" in grid.choices and request.schedule.timestep_spacing:
        return request.schedule.timestep_spacing
    return grid.spacing


def _curve(request: SchedulerRequest, karras: bool, notes: list[str]) -> Curve | None:
    """The curve that is requested, else the model's, else the solver's; a note where it cannot be applied."""
    solver = request.solver
    requested = dict(request.options).get("spacing")
    if karras and requested == "exponential":
        raise RequestError("spacing", requested, "left out, or karras, where Karras sigmas are asked for")

    curve: Curve | None = "karras" if karras else None
    if curve is None:
        curve = next((known for known in CURVES if known == requested), None)

    if curve is not None and not solver.curves:
        notes.append(f"{curve} sigmas were not applied: they mean nothing for {request.name}")
        curve = None

    if curve is not None or requested is not None:
        return curve
    if solver.curves and _configured(request).get("use_exponential_sigmas"):
        return "exponential"
    return solver.grid.curve


def _solver_options(request: SchedulerRequest) -> Options:
    """The solver's own settings; those of a model's configuration apply where the caller gives none."""
    settings = {**_configured(request), **dict(request.options)}

    algorithm = request.algorithm_type
    configured = settings.get("algorithm_type")
    if algorithm is None and configured in ALGORITHMS:
        algorithm = configured
    if not request.solver.algorithms:
        algorithm = None

    values = {key: settings[key] for key in SOLVER_OPTIONS if key in settings}
    return Options(algorithm_type=algorithm, **values)


def _final(request: SchedulerRequest, options: Options) -> GridFinal:
    """The level that the last step ends at."""
    grid = request.solver.grid
    requested = dict(request.options).get("final_sigmas_type")

    is_unipc_of_noise = request.name == "UniPCMultistepScheduler" and not options.predict_x0
    if is_unipc_of_noise or options.algorithm_type in ("dpmsolver", "sde-dpmsolver"):
        if requested == "zero":
            raise RequestError("final_sigmas_type", requested, "sigma_min where the solver integrates noise")
        return "sigma_min"  # its steps cannot reach an infinite signal-to-noise ratio
    if request.name == "DEISMultistepScheduler" and requested == "zero":
        raise RequestError("final_sigmas_type", requested, f"sigma_min for {request.name}")

    for final in FINAL_SIGMAS:
        if requested == final:
            return final
    if "final" in grid.choices and request.schedule.final_sigmas_type:
        return request.schedule.final_sigmas_type
    return grid.final


def _choice(field: str, value: object, allowed: tuple[Choice, ...]) -> Choice:
    """The allowed value that ``value`` is, of the same type: True is not 1."""
    for known in allowed:
        is_equal = type(value) is type(known) and value == known
        if value is known or is_equal:
            return known

    choices = ", ".join(map(str, allowed))
    raise RequestError(field, value, f"one of {choices}")
