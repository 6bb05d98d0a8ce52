"""The sampler of a request: its scheduler, steps and noise schedule, and the table that they compile to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from intarsia import schedulers
from intarsia.engine.plan import Plan, SamplerPlan
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError, expect, shown
from intarsia.registry.entries import ModelEntry
from intarsia.registry.files import scheduler_config
from intarsia.schedulers.chosen_settings import SETTINGS, chosen_settings
from intarsia.schedulers.noise_schedule import PredictionType
from intarsia.schedulers.settings import checked_algorithm
from intarsia.schedulers.solvers import DISTILLED_ALONE
from intarsia.schedulers.table_json import table_hash

__all__ = ["DEFAULT_SCHEDULER", "DEFAULT_STEPS", "prediction_type_of", "sampler_plan", "table_of"]

DEFAULT_SCHEDULER = "DPMSolverMultistepScheduler"
DEFAULT_STEPS = 21

# What a table of one's own settles.
_IN_A_TABLE = ("scheduler", "steps", "strength", "karras_sigmas", "algorithm_type", *SETTINGS)


def sampler_plan(request: InpaintRequest, entry: ModelEntry) -> SamplerPlan:
    """Scheduler, steps and strength of a request, with the model's defaults; or its own table.

    Raises:
        RequestError: a scheduler that is not known, or a combination that it does not take.
        WeightsError: the model's scheduler configuration cannot be read.
    """
    config = scheduler_config(entry)
    if request.table is not None:
        return _plan_of_table(request, request.table, config)

    scheduler = request.scheduler or _default(entry, "scheduler", DEFAULT_SCHEDULER)
    steps = request.steps or _default(entry, "steps", DEFAULT_STEPS)
    sampler = schedulers.resolve_sampler(scheduler)
    algorithm = _algorithm(request, sampler)
    settings, karras = _settings_and_karras(request, sampler)

    expect("steps", steps, int, "a whole number between 1 and 1000")  # a registry's default may be anything
    strength = float(request.strength)
    table = _table(
        scheduler=sampler.scheduler,
        steps=steps,
        # Strength 0 returns the input: no rows; the table of strength 1 still checks everything else.
        strength=strength or 1.0,
        karras=karras,
        algorithm_type=algorithm,
        settings=settings,
        config=json.dumps(config),
    )
    return SamplerPlan(
        scheduler=sampler.scheduler,
        steps=steps,
        strength=strength,
        karras=karras,
        karras_applied=table.karras_applied,
        algorithm_type=algorithm or "",
        schedule=_frozen(config),
        evaluations=len(table.timesteps) if strength else 0,
        notes=_notes(table, entry, config),
        settings=settings,
    )


def _notes(table: schedulers.Table, entry: ModelEntry, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the table says of itself; not that it needs a distilled model where the model says that it is one.

    It does so by its own scheduler, in its files or for any endpoint of its entry.
    """
    of_endpoints = [value for value in entry.defaults.values() if isinstance(value, Mapping)]
    own = [config.get("_class_name"), *(defaults.get("scheduler") for defaults in (entry.defaults, *of_endpoints))]
    if any(str(name).casefold() in ("lcm", "lcmscheduler") for name in own):
        return tuple(note for note in table.notes if note != DISTILLED_ALONE)
    return table.notes


def _plan_of_table(request: InpaintRequest, table: schedulers.Table, config: Mapping[str, Any]) -> SamplerPlan:
    """The plan of a caller's own table, which settles everything that makes one."""
    for name in _IN_A_TABLE:
        is_given = name in request.model_fields_set and getattr(request, name) is not None
        if is_given:
            value = getattr(request, name)
            message = f"{name} is {shown(value)}, and a table is given, which settles it: leave one of them out"
            raise RequestError(name, value, message=message)

    return SamplerPlan(
        scheduler=table.name,
        steps=table.steps,
        strength=table.strength,
        karras=table.karras,
        karras_applied=table.karras_applied,
        algorithm_type="",
        schedule=_frozen(config),
        evaluations=len(table),
        notes=table.notes,
        table_sha256=table_hash(table),
    )


def _algorithm(request: InpaintRequest, sampler: schedulers.Sampler) -> str | None:
    """The form of the DPM solvers, chosen by the request or in the sampler's name."""
    # Beside a name that says it too, any spelling of it is the same.
    spelled = checked_algorithm(request.algorithm_type) if sampler.algorithm_type else None
    algorithm: str | None = _chosen("algorithm_type", request, sampler, spelled)
    return algorithm


def _settings_and_karras(
    request: InpaintRequest, sampler: schedulers.Sampler
) -> tuple[tuple[tuple[str, Any], ...], bool]:
    """The solver's settings, sorted by name, and whether the levels lie on Karras's curve."""
    chosen = _settings(request, sampler)
    karras = _karras(request, sampler.scheduler, chosen.get("spacing"))
    if chosen.get("spacing") == "karras":
        del chosen["spacing"]  # which the plan says as ``karras``
    return tuple(sorted(chosen.items())), karras


def _settings(request: InpaintRequest, sampler: schedulers.Sampler) -> dict[str, Any]:
    """The solver's settings and its spacing, chosen by the request or in the sampler's name."""
    chosen = {name: getattr(request, name) for name in SETTINGS}
    settings = chosen_settings(sampler.scheduler, chosen)
    for name in ("spacing", "solver_type"):
        value = _chosen(name, request, sampler, settings.get(name))
        if value is not None:
            settings[name] = value
    return settings


def _karras(request: InpaintRequest, scheduler: str, spacing: str | None) -> bool:
    """Whether the levels lie on Karras's curve: as the request says, else where that means something.

    Beside a spacing that the request gives, or that is in the sampler's name, it is only there if it is asked for.
    """
    asked = request.karras_sigmas
    if asked is None:
        return schedulers.has_curves(scheduler) if spacing is None else spacing == "karras"
    contradicts = spacing == "exponential" if asked else spacing == "karras"
    if contradicts:
        source = "spacing" if request.spacing is not None else _source(request)
        message = f"karras_sigmas is {str(asked).lower()}, and {source} says {spacing}: leave one of them out"
        raise RequestError("karras_sigmas", message=message)
    return asked


def _chosen(field: str, request: InpaintRequest, sampler: schedulers.Sampler, given: Any = None) -> Any:
    """A setting that both the request and the sampler's name may say.

    Args:
        given: what the request says, where that has been read already.
    """
    asked, named = getattr(request, field) if given is None else given, getattr(sampler, field)
    if named is None or asked is None:
        return named if asked is None else asked
    if asked != named:
        message = f"{field} is {shown(getattr(request, field))}, and {_source(request)} says {named}: leave one out"
        raise RequestError(field, message=message)
    return named


def _source(request: InpaintRequest) -> str:
    """Where the sampler's name is from."""
    return "the model's scheduler" if request.scheduler is None else f"scheduler {shown(request.scheduler)}"


def table_of(plan: Plan, own: schedulers.Table | None = None) -> schedulers.Table:
    """The plan's solver table, compiled (and cached) on demand.

    Args:
        own: the request's own table, where it has one.
    """
    sampler = plan.sampler
    if own is not None:
        return own
    if sampler.table_sha256:
        raise RequestError("table", message=f"the plan is of a table of the caller's own, {sampler.scheduler}")
    return _table(
        scheduler=sampler.scheduler,
        steps=sampler.steps,
        strength=sampler.strength,
        karras=sampler.karras,
        algorithm_type=sampler.algorithm_type or None,
        settings=sampler.settings,
        config=json.dumps(dict(sampler.schedule)),
    )


def prediction_type_of(plan: Plan) -> PredictionType:
    """What the output of the plan's network is."""
    return _noise_schedule(json.dumps(dict(plan.sampler.schedule))).prediction_type


@lru_cache(maxsize=256, typed=True)
def _table(
    *,
    scheduler: str,
    steps: int,
    strength: float,
    karras: bool,
    algorithm_type: str | None,
    settings: tuple[tuple[str, Any], ...],
    config: str,
) -> schedulers.Table:
    """Cached, as the rows of a batch ask for the same few tables.

    Args:
        config: the model's scheduler configuration as JSON.
    """
    return schedulers.table(
        scheduler,
        steps,
        strength=strength,
        karras=karras,
        algorithm_type=algorithm_type,
        schedule=_noise_schedule(config),
        **dict(settings),
    )


@lru_cache(maxsize=64)
def _noise_schedule(config: str) -> schedulers.NoiseSchedule:
    """From a scheduler configuration as JSON: one for all requests, which keep asking for the same."""
    return schedulers.NoiseSchedule.from_config(json.loads(config))


def _frozen(config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """A scheduler configuration as sorted pairs, lists as tuples; comments of its writer left out."""
    pairs = []
    for key, value in sorted(config.items()):
        if not key.startswith("_"):
            pairs.append((key, tuple(value) if isinstance(value, list) else value))
    return tuple(pairs)


def _default(entry: ModelEntry, name: str, otherwise: Any) -> Any:
    return entry.defaults.get(name, otherwise)
