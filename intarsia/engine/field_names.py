"""Fields of a request under the names that other tools have for them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["SYNONYMS", "did_you_mean", "hint_for"]

SYNONYMS: dict[str, tuple[str, ...]] = {
    "init_image": ("image",),
    "mask_image": ("mask",),
    "samples": ("num_images_per_prompt", "num_images", "n_iter", "batch_size"),
    "steps": ("num_inference_steps", "sampling_steps", "num_steps"),
    "guidance_scale": ("guidance", "cfg_scale", "cfg"),
    "strength": ("denoising_strength", "denoise"),
    "scheduler": ("sampler", "sampler_name", "sampler_index"),
    "karras_sigmas": ("karras", "use_karras_sigmas"),
    "spacing": ("timestep_spacing", "schedule_type"),
    "eta": ("ddim_eta",),
    "model": ("model_id", "checkpoint"),
    "loras": ("lora", "lora_model"),
    "vae": ("vae_model",),
    "negative_prompt": ("negative",),
    "mask_padding": ("padding_mask_crop", "inpaint_full_res_padding", "margin"),
    "mask_dilate": ("mask_grow", "grow_mask", "dilate"),
    "mask_blur": ("feather", "blur"),
    "mask_fill_holes": ("fill_holes",),
    "soft_mask": ("soft_inpainting", "differential"),
    "mask_min_area": ("min_area", "min_mask_area"),
    "invert_mask": ("mask_invert", "inpainting_mask_invert"),
    "token_merging": ("tomesd", "token_merging_ratio", "tome_ratio"),
    "safety_action": ("safety_checker_type",),
    "seed": ("seeds",),
}
"""Field → names that other tools have for the same value."""

_ELSEWHERE = {
    "mask_erode": "mask_dilate below 0 shrinks the mask",
    "mask_shrink": "mask_dilate below 0 shrinks the mask",
    "outpaint": "extend takes {left, top, right, bottom} in pixels",
    "expand": "extend takes {left, top, right, bottom} in pixels",
    "generator": "seed takes a number",
    "init_images": "init_image takes one image",
    "W": "width",
    "H": "height",
    "size": "width and height, each a number",
    "inpainting_fill": "masked_content takes original, fill, noise or blank",
    "inpaint_full_res": "mask_padding says what is generated: auto, whole, or a number of pixels around the mask",
    "lora_strength": "loras takes a list of {id, strength}",
    "ip_adapter_image": "ip_adapter takes {id, image, scale}",
    "ip_adapter_scale": "ip_adapter takes {id, image, scale}",
    "ip_adapter_id": "ip_adapter takes {id, image, scale}",
    "use_exponential_sigmas": "spacing takes exponential",
    "use_beta_sigmas": "there is no beta spacing: spacing takes leading, trailing, linspace, karras or exponential",
    "output": "images come back in the result",
}
"""Names of other tools whose values have another form here, and what to give instead."""

_FIELDS = {name: field for field, names in SYNONYMS.items() for name in names}


def hint_for(name: str, known: Iterable[str]) -> str:
    """What a name that is no field probably means, as the rest of a sentence; "" where nothing is near."""
    field = _FIELDS.get(name) or _FIELDS.get(name.lower())
    if field is not None:
        return f"it is {field} here"
    if name in _ELSEWHERE:
        return f"use {_ELSEWHERE[name]}" if " " not in _ELSEWHERE[name] else _ELSEWHERE[name]
    return did_you_mean(name, known)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean "steps"?`` for a name that is near a known one, whatever its case; else ""."""
    spellings = {each.lower(): each for each in known}
    near = get_close_matches(name[:100].lower(), list(spellings), n=1, cutoff=0.7)
    return f"did you mean {spellings[near[0]]}?" if near else ""
