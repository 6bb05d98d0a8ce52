"""What was asked of a scheduler, checked; and what it comes to for its solver."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from intarsia.errors import RequestError
from intarsia.schedulers.dpm_steps import ALGORITHMS
from intarsia.schedulers.noise_schedule import PREDICTION_TYPES, SPACINGS, NoiseSchedule
from intarsia.schedulers.rows import Options
from intarsia.schedulers.solvers import SOLVERS
from intarsia.schedulers.spacing import CURVES

DEFAULT_ALGORITHM = ("", "none", "no")
ALGORITHM_SPELLINGS = {"dpmsolver+++": "sde-dpmsolver++"}  # as the hosted endpoints' documents write it
SOLVER_OPTIONS = tuple(field.name for field in fields(Options) if field.name != "algorithm_type")
OPTIONS = ("spacing", "final_sigmas_type", *SOLVER_OPTIONS)


@dataclass(frozen=True)
class Asked:
    """The arguments of :func:`intarsia.schedulers.table`, checked one by one and hashable."""

    name: str
    steps: int
    karras: bool | None
    strength: float
    algorithm_type: str | None
    prediction_type: str
    schedule: NoiseSchedule
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Settled:
    """What a request comes to: model's configuration and solver's defaults filled in, notes for the result."""

    karras: bool
    spacing: str
    curve: str | None
    final: str
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
    """diffusers' name of the form that ``algorithm`` asks for, None for the default, or RequestError."""
    if algorithm is None:
        return None
    if isinstance(algorithm, str):
        wanted = algorithm.strip().lower()
        wanted = ALGORITHM_SPELLINGS.get(wanted, wanted)
        if wanted in DEFAULT_ALGORITHM:
            return None
        if wanted in ALGORITHMS:
            return wanted
    raise RequestError("algorithm_type", algorithm, f"one of {', '.join(('none', *ALGORITHMS, *ALGORITHM_SPELLINGS))}")


def checked_prediction(prediction: object) -> str:
    """``prediction`` if it is a known kind of network output, or RequestError."""
    return str(_choice("prediction_type", prediction, PREDICTION_TYPES))


def checked_options(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """``options`` without those left at None, sorted; RequestError for an unknown one or an impossible value."""
    for key in sorted(set(options) - set(OPTIONS)):
        message = f"{key} is not an option of a scheduler; the options are {', '.join(OPTIONS)}"
        if key in ("clip_sample", "thresholding"):
            message = f"{key} is not supported: it makes a step non-linear, and a table is linear"
        raise RequestError(key, options[key], message=message)
    given = {key: value for key, value in options.items() if value is not None}
    _choice("spacing", given.get("spacing", "karras"), SPACINGS + CURVES)
    _choice("final_sigmas_type", given.get("final_sigmas_type", "zero"), ("zero", "sigma_min"))
    _choice("solver_order", given.get("solver_order", 1), (1, 2, 3))
    for key in ("lower_order_final", "euler_at_final", "predict_x0"):
        _choice(key, given.get(key, True), (True, False))
    eta = given.get("eta", 0.0)
    if isinstance(eta, bool) or not isinstance(eta, Real) or not 0 <= float(eta) <= 1:
        raise RequestError("eta", eta, "between 0 and 1")
    return tuple(sorted(given.items()))


def settle(asked: Asked) -> Settled:
    """Fill in what ``asked`` leaves open. RequestError for settings that contradict each other."""
    solver, own, given = SOLVERS[asked.name], dict(asked.schedule.options), dict(asked.options)
    notes = [solver.note] if solver.note else []
    karras = asked.karras
    if karras is None:
        karras = bool(own.get("use_karras_sigmas")) and solver.curves
    spacing, curve = _spacing(asked, karras, notes)
    if asked.algorithm_type is not None and not solver.algorithms:
        notes.append(
            f"algorithm_type {asked.algorithm_type} was not applied: it is for the DPM solvers, not {asked.name}"
        )
    options = _solver_options(asked, {**own, **given})
    return Settled(karras, spacing, curve, _final(asked, options), options, tuple(notes))


def _spacing(asked: Asked, karras: bool, notes: list[str]) -> tuple[str, str | None]:
    """(spacing, curve or None) from what was asked, the model's configuration and the solver's default."""
    solver, own = SOLVERS[asked.name], dict(asked.schedule.options)
    wanted = dict(asked.options).get("spacing")
    if karras and wanted == "exponential":
        raise RequestError("spacing", wanted, "left out, or karras, where Karras sigmas are asked for")
    spacing = wanted if wanted in SPACINGS else None
    if spacing is None and "spacing" in solver.grid.choices:
        spacing = asked.schedule.timestep_spacing
    curve = "karras" if karras else wanted if wanted in CURVES else None
    if curve is not None and not solver.curves:
        notes.append(f"{curve} sigmas were not applied: they mean nothing for {asked.name}")
        curve = None
    if curve is None and wanted is None:
        exponential = own.get("use_exponential_sigmas") and solver.curves
        curve = "exponential" if exponential else solver.grid.curve
    return spacing or solver.grid.spacing, curve


def _solver_options(asked: Asked, settings: dict[str, Any]) -> Options:
    """The solver's own settings; those of a model's configuration apply where the caller gives none."""
    algorithm = asked.algorithm_type
    if algorithm is None and settings.get("algorithm_type") in ALGORITHMS:
        algorithm = settings["algorithm_type"]
    values = {key: settings[key] for key in SOLVER_OPTIONS if key in settings}
    return Options(algorithm if SOLVERS[asked.name].algorithms else None, **values)


def _final(asked: Asked, options: Options) -> str:
    """The level that the last step ends at."""
    grid, wanted = SOLVERS[asked.name].grid, dict(asked.options).get("final_sigmas_type")
    if options.algorithm_type in ("dpmsolver", "sde-dpmsolver") or (
        asked.name == "UniPCMultistepScheduler" and not options.predict_x0
    ):
        if wanted == "zero":
            raise RequestError("final_sigmas_type", wanted, "sigma_min where the solver integrates noise")
        return "sigma_min"  # its steps cannot reach an infinite signal-to-noise ratio
    if asked.name == "DEISMultistepScheduler" and wanted == "zero":
        raise RequestError("final_sigmas_type", wanted, f"sigma_min for {asked.name}")
    if wanted is None and "final" in grid.choices:
        wanted = asked.schedule.final_sigmas_type
    return str(wanted or grid.final)


def _choice(field: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if not any(value is known or (type(value) is type(known) and value == known) for known in allowed):
        raise RequestError(field, value, f"one of {', '.join(str(known) for known in allowed)}")
    return value
