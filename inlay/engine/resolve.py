"""``InpaintRequest`` + registry entry → ``Plan``: every default, limit and rounding, applied here, once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inlay import schedulers
from inlay.backends.protocol import Inputs
from inlay.engine.canvas import Canvas, CanvasOptions, latent_mask, prepare
from inlay.engine.noise import MAX_SEED
from inlay.engine.plan import CanvasPlan, ModelPlan, Plan, PromptPlan, SamplerPlan
from inlay.engine.registry import ModelEntry, Registry
from inlay.engine.request import InpaintRequest
from inlay.engine.sources import Picture, open_picture
from inlay.engine.weights import model_hash, scheduler_config
from inlay.errors import RequestError, WeightsError

__all__ = ["DEFAULT_SCHEDULER", "DEFAULT_STEPS", "Resolved", "resolve", "table_of"]

DEFAULT_SCHEDULER = "DPMSolverMultistepScheduler"
DEFAULT_STEPS = 21


@dataclass(frozen=True, eq=False)
class Resolved:
    """A plan and the pixels it speaks of.

    Attributes:
        warnings: what the caller should know and the plan does not say.
    """

    plan: Plan
    entry: ModelEntry
    canvas: Canvas
    inputs: Inputs
    warnings: tuple[str, ...]


def resolve(request: InpaintRequest, registry: Registry) -> Resolved:
    """Turn a request into what will be done; opens the pictures, reads no weights, imports no torch.

    Raises:
        RequestError: a field that cannot be honoured, or a picture that cannot be read.
        WeightsError: a model, VAE or adapter that the registry does not have.
    """
    entry = registry.find(request.model)
    _refuse_what_is_missing(request, entry)
    sampler = _sampler(request, entry)
    options = _canvas_options(request, entry)
    image, mask = _picture("init_image", request.init_image), _picture("mask_image", request.mask_image)
    canvas = prepare(image, mask, options)
    plan = Plan(
        model=_model(entry),
        canvas=_canvas_plan(canvas, options, image.sha256, mask.sha256),
        prompt=_prompt(request, entry),
        sampler=sampler,
        guidance_scale=float(request.guidance_scale),
        seeds=_seeds(request),
        token_merging=_merging_ratio(request, entry),
    )
    warnings = (*image.warnings, *mask.warnings, *canvas.warnings, *sampler.notes)
    return Resolved(plan, entry, canvas, _inputs(plan, canvas, request), warnings)


def table_of(plan: Plan) -> schedulers.Table:
    """The plan's solver table, compiled (and cached) on demand."""
    sampler = plan.sampler
    return schedulers.table(
        sampler.scheduler,
        sampler.steps,
        karras=sampler.karras,
        strength=sampler.strength,
        algorithm_type=sampler.algorithm_type or None,
        schedule=schedulers.NoiseSchedule.from_config(dict(sampler.schedule)),
    )


def _refuse_what_is_missing(request: InpaintRequest, entry: ModelEntry) -> None:
    """A field is honoured or refused by name, never dropped."""
    asked = {"VAE": request.vae, "IP adapter": request.ip_adapter}
    asked |= {"LoRA": request.loras[0].id} if request.loras else {}
    for kind, name in asked.items():
        if name:
            raise WeightsError(f"{kind} not found: {name[:120]}; the registry has none")
    if request.safety_checker:
        raise WeightsError(f"safety_checker: no checker is installed for {entry.id}; turn it off to run without one")


def _sampler(request: InpaintRequest, entry: ModelEntry) -> SamplerPlan:
    scheduler = request.scheduler or _default(entry, "scheduler", DEFAULT_SCHEDULER)
    steps = request.steps or _default(entry, "steps", DEFAULT_STEPS)
    config = scheduler_config(entry)
    schedule = schedulers.NoiseSchedule.from_config(config)
    shared: dict[str, Any] = {"karras": request.karras_sigmas, "schedule": schedule}
    name = schedulers.resolve(scheduler)
    # Strength 0 returns the input: no rows; the table of strength 1 still checks everything else.
    strength = float(request.strength)
    table = schedulers.table(name, steps, strength=strength or 1.0, algorithm_type=request.algorithm_type, **shared)
    return SamplerPlan(
        scheduler=name,
        steps=steps,
        strength=strength,
        karras=request.karras_sigmas,
        karras_applied=table.karras_applied,
        algorithm_type=request.algorithm_type or "",
        schedule=_frozen(config),
        evaluations=len(table.timesteps) if strength else 0,
        notes=tuple(table.notes),
    )


def _frozen(config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """A scheduler configuration as sorted pairs, lists as tuples; comments of its writer left out."""
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    return tuple((key, tuple(v) if isinstance(v, list) else v) for key, v in sorted(kept.items()))


def _default(entry: ModelEntry, name: str, otherwise: Any) -> Any:
    return entry.defaults.get(name, otherwise)


def _canvas_options(request: InpaintRequest, entry: ModelEntry) -> CanvasOptions:
    if request.fit_output and (request.width is None or request.height is None):
        raise RequestError("fit_output", message="fit_output needs both width and height")
    return CanvasOptions(
        width=request.width,
        height=request.height,
        fixed_size=request.fit_output,
        mask_source=request.mask_source,
        invert_mask=request.invert_mask,
        mask_dilate=request.mask_dilate,
        mask_blur=float(request.mask_blur),
        mask_padding=request.mask_padding,
        masked_content=request.masked_content,
        color_match=request.color_match,
        native_size=entry.size,
    )


def _canvas_plan(canvas: Canvas, options: CanvasOptions, image_sha256: str, mask_sha256: str) -> CanvasPlan:
    return CanvasPlan(
        geometry=canvas.geometry,
        image_sha256=image_sha256,
        mask_sha256=mask_sha256,
        mask_source=options.mask_source,
        invert_mask=options.invert_mask,
        mask_dilate=options.mask_dilate,
        mask_blur=options.mask_blur,
        mask_padding=-1 if options.mask_padding is None else options.mask_padding,
        masked_content=options.masked_content,
        color_match=options.color_match,
    )


def _picture(field: str, value: Any) -> Picture:
    if value is None:
        raise RequestError(field, message=f"{field} is required")
    return open_picture(field, value)


def _model(entry: ModelEntry) -> ModelPlan:
    shape = entry.shape
    return ModelPlan(
        id=entry.id,
        family=entry.family,
        sha256=model_hash(entry),
        in_channels=shape.in_channels,
        latent_channels=shape.latent_channels,
        factor=shape.factor,
    )


def _prompt(request: InpaintRequest, entry: ModelEntry) -> PromptPlan:
    prompt = request.prompt
    if request.enhance_prompt:
        prompt = entry.prompt_template.replace("{prompt}", prompt)
    return PromptPlan(prompt, request.negative_prompt, request.prompt, request.clip_skip)


def _seeds(request: InpaintRequest) -> tuple[int, ...]:
    first = secrets.randbits(32) if request.seed is None else request.seed
    if first + request.samples - 1 > MAX_SEED:
        raise RequestError("seed", first, f"at most {MAX_SEED} for the last sample")
    return tuple(first + sample for sample in range(request.samples))


def _merging_ratio(request: InpaintRequest, entry: ModelEntry) -> float:
    asked = request.token_merging
    if asked is None or asked is False:
        return 0.0
    return entry.token_merging if asked is True else float(asked)


def _inputs(plan: Plan, canvas: Canvas, request: InpaintRequest) -> Inputs:
    return Inputs(
        prompt=plan.prompt.prompt,
        negative_prompt=plan.prompt.negative_prompt,
        clip_skip=plan.prompt.clip_skip,
        guidance_scale=plan.guidance_scale,
        image=canvas.image,
        mask=canvas.mask,
        latent_mask=latent_mask(canvas.mask, plan.model.factor),
        noise_fill=request.masked_content == "noise",
    )
