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
from intarsia.schedulers.noise_schedule import PredictionType

__all__ = ["DEFAULT_SCHEDULER", "DEFAULT_STEPS", "prediction_type_of", "sampler_plan", "table_of"]

DEFAULT_SCHEDULER = "DPMSolverMultistepScheduler"
DEFAULT_STEPS = 21


def sampler_plan(request: InpaintRequest, entry: ModelEntry) -> SamplerPlan:
    """Scheduler, steps and strength of a request, with the model's defaults.

    Raises:
        RequestError: a scheduler that is not known, or a combination that it does not take.
        WeightsError: the model's scheduler configuration cannot be read.
    """
    scheduler = request.scheduler or _default(entry, "scheduler", DEFAULT_SCHEDULER)
    steps = request.steps or _default(entry, "steps", DEFAULT_STEPS)
    config = scheduler_config(entry)
    # Strength 0 returns the input: no rows; the table of strength 1 still checks everything else.
    strength = float(request.strength)
    sampler = schedulers.resolve_sampler(scheduler)
    name, algorithm = sampler.scheduler, _algorithm(request, sampler)
    karras = _karras(request, sampler)
    expect("steps", steps, int, "a whole number between 1 and 1000")  # a registry's default may be anything
    table = _table(
        scheduler=name,
        steps=steps,
        strength=strength or 1.0,
        karras=karras,
        algorithm_type=algorithm,
        config=json.dumps(config),
    )

    return SamplerPlan(
        scheduler=name,
        steps=steps,
        strength=strength,
        karras=karras,
        karras_applied=table.karras_applied,
        algorithm_type=algorithm or "",
        schedule=_frozen(config),
        evaluations=len(table.timesteps) if strength else 0,
        notes=tuple(table.notes),
    )


def _karras(request: InpaintRequest, sampler: schedulers.Sampler) -> bool:
    """Whether Karras's spacing is asked for, by the request or in the sampler's name.

    It is the default, and no request for anything where it means nothing for the scheduler.
    """
    if "karras_sigmas" not in request.model_fields_set:
        return sampler.karras or (request.karras_sigmas and schedulers.has_curves(sampler.scheduler))
    if sampler.karras and not request.karras_sigmas:
        message = f"karras_sigmas is false, and scheduler {shown(request.scheduler)} says Karras: leave one of them out"
        raise RequestError("karras_sigmas", message=message)
    return request.karras_sigmas


def _algorithm(request: InpaintRequest, sampler: schedulers.Sampler) -> str | None:
    """The form of a DPM solver that is asked for, by the request or in the sampler's name."""
    named = sampler.algorithm_type
    if named is None or request.algorithm_type is None:
        return request.algorithm_type or named
    if request.algorithm_type != named:
        name = shown(request.scheduler)
        message = f"algorithm_type is {shown(request.algorithm_type)}, and scheduler {name} says {named}: leave one out"
        raise RequestError("algorithm_type", message=message)
    return named


def table_of(plan: Plan) -> schedulers.Table:
    """The plan's solver table, compiled (and cached) on demand."""
    sampler = plan.sampler
    return _table(
        scheduler=sampler.scheduler,
        steps=sampler.steps,
        strength=sampler.strength,
        karras=sampler.karras,
        algorithm_type=sampler.algorithm_type or None,
        config=json.dumps(dict(sampler.schedule)),
    )


def prediction_type_of(plan: Plan) -> PredictionType:
    """What the output of the plan's network is."""
    return _noise_schedule(json.dumps(dict(plan.sampler.schedule))).prediction_type


@lru_cache(maxsize=256, typed=True)
def _table(
    *, scheduler: str, steps: int, strength: float, karras: bool, algorithm_type: str | None, config: str
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
