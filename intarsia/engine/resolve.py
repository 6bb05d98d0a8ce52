"""``InpaintRequest`` + registry entry → ``Plan``: every default, limit and rounding, applied here, once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from intarsia.backends.protocol import Inputs, PromptEmbedding
from intarsia.canvas.canvas import Canvas, prepare
from intarsia.canvas.mask import latent_mask
from intarsia.canvas.mask_source import is_partly_transparent
from intarsia.canvas.soft_mask import latent_levels
from intarsia.engine.known_images import KnownImages, images_key
from intarsia.engine.noise import MAX_SEED
from intarsia.engine.origin import Origin, fields_for_files, input_of
from intarsia.engine.parts import Parts, find_checker, find_parts, model_plan
from intarsia.engine.plan import PLAN_VERSION, CanvasPlan, Plan, PromptPlan, SamplerPlan
from intarsia.engine.prompts import Prompts, read_prompts
from intarsia.engine.request import InpaintRequest
from intarsia.engine.request_images import OpenedImages, canvas_options, canvas_plan, images_plan, open_images
from intarsia.engine.sampling import sampler_plan
from intarsia.errors import RequestError, named
from intarsia.images.access import Access
from intarsia.images.fill import opaque
from intarsia.images.rgb_image import RgbImage
from intarsia.registry.entries import ModelEntry, PartEntry
from intarsia.registry.files import entry_hash
from intarsia.registry.hashing import nothing
from intarsia.registry.registry import Registry
from intarsia.schedulers import Table
from intarsia.token_merging import NO_MERGING, TokenMerging

__all__ = ["Resolved", "outline", "plan_of", "resolve"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Resolved:
    """A plan, and the pixels and registry entries behind its hashes.

    Attributes:
        parts: VAE, LoRAs and IP adapter of the request.
        checker: the safety checker; None where none was asked for.
        table: the request's own; None where the plan says how to make it.
        origin: the request and its images, for the files of its result.
        warnings: what the caller should know and the plan does not say.
    """

    plan: Plan
    entry: ModelEntry
    parts: Parts
    checker: PartEntry | None
    canvas: Canvas
    inputs: Inputs
    origin: Origin
    warnings: tuple[str, ...]
    table: Table | None = None


@dataclass(frozen=True, kw_only=True)
class _Entries:
    """What the registry has for a request."""

    model: ModelEntry
    prompts: Prompts
    parts: Parts
    checker: PartEntry | None


def resolve(
    request: InpaintRequest,
    registry: Registry,
    access: Access = Access(),
    meanwhile: Callable[[], None] = nothing,
) -> Resolved:
    """Turn a request into what will be done; opens the images, hashes weights without pins, imports no torch.

    Args:
        access: what the request may make this machine read: images, and with ``allow_paths`` also models and parts
            by their paths.
        meanwhile: called while much of the model is hashed.

    Raises:
        RequestError: a field that cannot be honored, or an image that cannot be read.
        WeightsError: a model, VAE, adapter or safety checker that the registry does not have.
    """
    entries = _find_entries(request, registry, access.allow_paths)
    sampler = sampler_plan(request, entries.model)
    options = canvas_options(request, entries.model)

    images = open_images(request, access)
    canvas = prepare(images.image, images.mask, options)

    planned = canvas_plan(canvas, options, images)
    shown = images.prompt_sha256
    plan = _plan(request, entries, sampler, canvas=planned, prompt_sha256=shown, meanwhile=meanwhile)
    about_request = _about_request(request, plan, entries, registry)
    about_mask = _about_own_mask(request, images.mask)
    return Resolved(
        plan=plan,
        entry=entries.model,
        parts=entries.parts,
        checker=entries.checker,
        canvas=canvas,
        inputs=_inputs(plan, canvas, images.prompt, entries.prompts.opened()),
        table=request.table,
        origin=_origin(request, entries, images, plan),
        warnings=(*about_request, *about_mask, *images.warnings, *canvas.warnings, *sampler.notes),
    )


def plan_of(request: InpaintRequest, registry: Registry, access: Access, known: KnownImages) -> Plan:
    """The plan alone, as :func:`resolve` makes it, of a request that is carried out later.

    Args:
        known: images that need not be opened again; those of the request are in it afterwards.

    Raises:
        RequestError, WeightsError: as of :func:`resolve`.
    """
    entries = _find_entries(request, registry, access.allow_paths)
    sampler = sampler_plan(request, entries.model)
    options = canvas_options(request, entries.model)

    key = images_key(request, options, access)
    about_images = known.get(key)
    if about_images is None:
        about_images = images_plan(request, options, access)
        known.put(key, about_images)

    entries.prompts.opened()
    canvas, shown = about_images.canvas, about_images.prompt_sha256
    return _plan(request, entries, sampler, canvas=canvas, prompt_sha256=shown)


def outline(request: InpaintRequest, registry: Registry) -> dict[str, Any]:
    """Everything in a plan but what its images decide, as plain values; opens no image.

    Two requests with a seed, equal outlines and equal images have equal plans.

    Raises:
        RequestError, WeightsError: what :func:`resolve` would raise before it opens an image.
    """
    entries = _find_entries(request, registry)
    entry, checker = entries.model, entries.checker
    adapter = request.ip_adapter
    merging = _token_merging(request, entry)

    return {
        "model": model_plan(entry, entries.parts).to_dict(),
        "canvas": asdict(canvas_options(request, entry)),
        "prompt": entries.prompts.plan.to_dict(),
        "image_scale": adapter.scale if adapter else 0.0,
        "sampler": sampler_plan(request, entry).to_dict(),
        "guidance_scale": _guidance(request),
        "seeds": _seeds(request),
        "merging": merging.to_dict() if merging.ratio else {},
        "safety": [entry_hash(checker), request.safety_action] if checker else [],
        "version": PLAN_VERSION,
    }


def _find_entries(request: InpaintRequest, registry: Registry, allow_paths: bool = False) -> _Entries:
    model = registry.find(request.model, allow_paths=allow_paths)
    prompts = read_prompts(request, model, registry, allow_paths=allow_paths)
    return _Entries(
        model=model,
        prompts=prompts,
        parts=find_parts(request, model, registry, more_loras=prompts.loras, allow_paths=allow_paths),
        checker=find_checker(request, model, registry),
    )


def _origin(request: InpaintRequest, entries: _Entries, images: OpenedImages, plan: Plan) -> Origin:
    shown = request.ip_adapter.image if request.ip_adapter else None
    opened = {
        "init_image": (request.init_image, images.image),
        "mask_image": (request.mask_image, images.mask),
        "ip_adapter.image": (shown, images.prompt),
    }
    return Origin(
        request=fields_for_files(request, entries.model, plan),
        inputs={name: input_of(value, image) for name, (value, image) in opened.items() if image is not None},
        embedded=images.image.embedded,
    )


def _plan(
    request: InpaintRequest,
    entries: _Entries,
    sampler: SamplerPlan,
    *,
    canvas: CanvasPlan,
    prompt_sha256: str,
    meanwhile: Callable[[], None] = nothing,
) -> Plan:
    checker = entries.checker
    return Plan(
        model=model_plan(entries.model, entries.parts, meanwhile),
        canvas=canvas,
        prompt=_prompt(request, entries.prompts, prompt_sha256),
        sampler=sampler,
        guidance_scale=_guidance(request),
        seeds=_seeds(request),
        token_merging=_token_merging(request, entries.model),
        safety=checker.id if checker else "off",
        safety_action=request.safety_action,
        safety_sha256=entry_hash(checker) if checker else "",
    )


def _about_request(request: InpaintRequest, plan: Plan, entries: _Entries, registry: Registry) -> tuple[str, ...]:
    """Warnings that need no pixels."""
    return (
        *_about_stand_in(request, entries.model, registry),
        *_about_guidance(plan),
        *entries.prompts.warnings,
    )


def _about_stand_in(request: InpaintRequest, entry: ModelEntry, registry: Registry) -> tuple[str, ...]:
    if request.model is None or not registry.is_stand_in(request.model):
        return ()
    return (f"the registry has no model {named(request.model)}: {entry.id} stood in for it",)


def _about_guidance(plan: Plan) -> tuple[str, ...]:
    """A warning of a whole prompt that has no effect."""
    if plan.guidance_scale <= 1 and plan.prompt.negative_prompt.strip():
        return ("negative_prompt has no effect without guidance: guidance_scale is not above 1",)
    return ()


def _about_own_mask(request: InpaintRequest, opened: RgbImage | None) -> tuple[str, ...]:
    """A warning where one image is given as both and read by its brightness, which is hardly what is meant."""
    image, mask = request.init_image, request.mask_image
    is_same = image is mask or (isinstance(image, str) and isinstance(mask, str) and image == mask)
    is_erased = request.mask_source == "auto" and opened is not None and is_partly_transparent(opened)
    if request.mask_source == "alpha" or is_erased or not is_same:
        return ()
    return ("mask_image is the very image that is repainted: what is bright in it was taken for the mask",)


def _prompt(request: InpaintRequest, prompts: Prompts, image_sha256: str) -> PromptPlan:
    plan = prompts.plan
    if request.ip_adapter is None:
        return plan
    return replace(plan, image_sha256=image_sha256, image_scale=float(request.ip_adapter.scale))


def _guidance(request: InpaintRequest) -> float:
    """At least 1, where there is no guidance: only the prompt's branch is evaluated."""
    return max(1.0, float(request.guidance_scale))


def _seeds(request: InpaintRequest) -> tuple[int, ...]:
    first = secrets.randbits(32) if request.seed is None else request.seed
    if first + request.samples - 1 > MAX_SEED:
        raise RequestError("seed", first, f"at most {MAX_SEED} for the last sample")
    return tuple(first + sample for sample in range(request.samples))


def _token_merging(request: InpaintRequest, entry: ModelEntry) -> TokenMerging:
    """The request's ratio with the model's levels and reuse, which say nothing where nothing merges."""
    ratio = request.token_merging
    if ratio is True:
        ratio = entry.token_merging.ratio
    if not ratio:
        return NO_MERGING
    return replace(entry.token_merging, ratio=float(ratio))


def _inputs(
    plan: Plan, canvas: Canvas, image_prompt: RgbImage | None, embeddings: tuple[PromptEmbedding, ...]
) -> Inputs:
    shown = None
    if image_prompt is not None:
        shown = np.ascontiguousarray(opaque(image_prompt.rgb, image_prompt.alpha))
    return Inputs(
        prompt=plan.prompt.prompt,
        negative_prompt=plan.prompt.negative_prompt,
        clip_skip=plan.prompt.clip_skip,
        guidance_scale=plan.guidance_scale,
        image=canvas.image,
        mask=canvas.mask,
        latent_mask=latent_mask(canvas.mask, plan.model.factor),
        soft_mask=None if canvas.levels is None else latent_levels(canvas.levels, plan.model.factor),
        noise_fill=plan.canvas.masked_content == "noise",
        image_prompt=shown,
        image_scale=plan.prompt.image_scale,
        token_merging=plan.token_merging,
        prompt_syntax=plan.prompt.syntax,
        embeddings=embeddings,
    )
