"""``InpaintRequest`` + registry entry → ``Plan``: every default, limit and rounding, applied here, once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from intarsia.backends.protocol import Inputs
from intarsia.canvas.canvas import Canvas, CanvasOptions, latent_mask, prepare
from intarsia.engine.noise import MAX_SEED
from intarsia.engine.parts import Parts, find_checker, find_parts, model_plan
from intarsia.engine.plan import PLAN_VERSION, CanvasPlan, Plan, PromptPlan
from intarsia.engine.prompt_syntax import notes_on
from intarsia.engine.request import InpaintRequest
from intarsia.engine.sampling import sampler_plan
from intarsia.errors import RequestError, named
from intarsia.images.access import Access
from intarsia.images.fill import opaque
from intarsia.images.sources import Picture, open_picture
from intarsia.registry.files import entry_hash
from intarsia.registry.hashing import nothing
from intarsia.registry.registry import ModelEntry, PartEntry, Registry
from intarsia.token_merging import NO_MERGING, TokenMerging

__all__ = ["Resolved", "outline", "resolve"]


@dataclass(frozen=True, eq=False)
class Resolved:
    """A plan and the pixels it speaks of.

    Attributes:
        parts: what is put into the model.
        checker: looks at what comes out; None where that was not asked for.
        warnings: what the caller should know and the plan does not say.
    """

    plan: Plan
    entry: ModelEntry
    parts: Parts
    checker: PartEntry | None
    canvas: Canvas
    inputs: Inputs
    warnings: tuple[str, ...]


def resolve(
    request: InpaintRequest,
    registry: Registry,
    access: Access = Access(),
    meanwhile: Callable[[], None] = nothing,
) -> Resolved:
    """Turn a request into what will be done; opens the pictures, hashes weights without pins, imports no torch.

    Args:
        access: what the request's pictures may make this machine read.
        meanwhile: called while much of the model is hashed.

    Raises:
        RequestError: a field that cannot be honoured, or a picture that cannot be read.
        WeightsError: a model, VAE, adapter or safety checker that the registry does not have.
    """
    entry = registry.find(request.model)
    parts = find_parts(request, entry, registry)
    checker = find_checker(request, entry, registry)
    sampler = sampler_plan(request, entry)
    options = _canvas_options(request, entry)
    image = _picture("init_image", request.init_image, access)
    mask = _picture("mask_image", request.mask_image, access)
    shown = _picture("ip_adapter.image", request.ip_adapter.image, access) if request.ip_adapter else None
    canvas = prepare(image, mask, options)
    plan = Plan(
        model=model_plan(entry, parts, meanwhile),
        canvas=_canvas_plan(canvas, options, image.sha256, mask.sha256),
        prompt=_prompt(request, entry, shown),
        sampler=sampler,
        guidance_scale=_guidance(request),
        seeds=_seeds(request),
        token_merging=_token_merging(request, entry),
        safety=checker.id if checker else "off",
        safety_action=request.safety_action,
        safety_sha256=entry_hash(checker) if checker else "",
    )
    notes = (*_stand_in(request, entry, registry), *_own_mask(request), *_of_prompts(plan))
    notes += shown.warnings if shown else ()
    warnings = (*notes, *image.warnings, *mask.warnings, *canvas.warnings, *sampler.notes)
    return Resolved(plan, entry, parts, checker, canvas, _inputs(plan, canvas, request, shown), warnings)


def outline(request: InpaintRequest, registry: Registry) -> dict[str, Any]:
    """Everything in a plan but what its pictures decide, as plain values; opens no picture.

    Two requests with a seed, equal outlines and equal pictures have equal plans.

    Raises:
        RequestError, WeightsError: what :func:`resolve` would raise before it opens a picture.
    """
    entry = registry.find(request.model)
    parts = find_parts(request, entry, registry)
    checker = find_checker(request, entry, registry)
    adapter = request.ip_adapter
    merging = _token_merging(request, entry)
    return {
        "model": model_plan(entry, parts).to_dict(),
        "canvas": asdict(_canvas_options(request, entry)),
        "prompt": asdict(_prompt(request, entry, None)),
        "image_scale": adapter.scale if adapter else 0.0,
        "sampler": asdict(sampler_plan(request, entry)),
        "guidance_scale": _guidance(request),
        "seeds": _seeds(request),
        "merging": merging.to_dict() if merging.ratio else {},
        "safety": [entry_hash(checker), request.safety_action] if checker else [],
        "version": PLAN_VERSION,
    }


def _stand_in(request: InpaintRequest, entry: ModelEntry, registry: Registry) -> tuple[str, ...]:
    if request.model is None or not registry.is_stand_in(request.model):
        return ()
    return (f"the registry has no model {named(request.model)}: {entry.id} stood in for it",)


def _of_prompts(plan: Plan) -> tuple[str, ...]:
    """What prompts do not do."""
    prompt, notes = plan.prompt, []
    if plan.guidance_scale <= 1 and prompt.negative_prompt.strip():
        notes.append("negative_prompt has no effect without guidance: guidance_scale is not above 1")
    texts = {"prompt": prompt.asked, "negative_prompt": prompt.negative_prompt}
    return (*notes, *(note for field, text in texts.items() for note in notes_on(field, text)))


def _own_mask(request: InpaintRequest) -> tuple[str, ...]:
    """A picture's transparency may well be its mask; its brightness is one by mistake, mostly."""
    image, mask = request.init_image, request.mask_image
    is_same = image is mask or (isinstance(image, str) and isinstance(mask, str) and image == mask)
    if request.mask_source == "alpha" or not is_same:
        return ()
    return ("mask_image is the very picture that is repainted: what is bright in it was taken for the mask",)


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


def _picture(field: str, value: Any, access: Access) -> Picture:
    if value is None:
        raise RequestError(field, message=f"{field} is required")
    return open_picture(field, value, access)


def _prompt(request: InpaintRequest, entry: ModelEntry, shown: Picture | None) -> PromptPlan:
    prompt = request.prompt
    if request.enhance_prompt:
        prompt = entry.prompt_template.replace("{prompt}", prompt)
    plan = PromptPlan(prompt, request.negative_prompt, request.prompt, request.clip_skip)
    if request.ip_adapter is None or shown is None:
        return plan
    return replace(plan, image_sha256=shown.sha256, image_scale=float(request.ip_adapter.scale))


def _guidance(request: InpaintRequest) -> float:
    """1 for everything up to it: without guidance the prompt's half is all there is to evaluate."""
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


def _inputs(plan: Plan, canvas: Canvas, request: InpaintRequest, shown: Picture | None) -> Inputs:
    return Inputs(
        prompt=plan.prompt.prompt,
        negative_prompt=plan.prompt.negative_prompt,
        clip_skip=plan.prompt.clip_skip,
        guidance_scale=plan.guidance_scale,
        image=canvas.image,
        mask=canvas.mask,
        latent_mask=latent_mask(canvas.mask, plan.model.factor),
        noise_fill=request.masked_content == "noise",
        image_prompt=np.ascontiguousarray(opaque(shown.rgb, shown.alpha)) if shown else None,
        image_scale=plan.prompt.image_scale,
        token_merging=plan.token_merging,
    )
