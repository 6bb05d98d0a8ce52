"""Fields of a request in the ``parameters`` text of AUTOMATIC1111's web UI, and of what writes as it does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from intarsia import schedulers
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError
from intarsia.images.a1111_text import read_parameters
from intarsia.numbers import number, whole

__all__ = ["fields_of_parameters", "usable"]

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_CONTENTS = {"fill": "fill", "original": "original", "latent noise": "noise", "latent nothing": "blank"}
_MOST_LEFT_OUT = 20

# Key → field and how its value is read; one that cannot be read gives None.
_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", whole),
    "CFG scale": ("guidance_scale", number),
    "Seed": ("seed", whole),
    "Model": ("model", str),
    "VAE": ("vae", str),
    "Denoising strength": ("strength", number),
    "Clip skip": ("clip_skip", whole),
    "Eta": ("eta", number),
    "Token merging ratio": ("token_merging", number),
    "Mask blur": ("mask_blur", number),
    "Masked area padding": ("mask_padding", whole),
    "Masked content": ("masked_content", _CONTENTS.get),
    "Mask mode": ("invert_mask", {"Inpaint not masked": True, "Inpaint masked": False}.get),
}
# They say again what other keys say, or nothing that decides an image here.
_NOTHING_NEW = {
    "Hashes",
    "Inpaint area",
    "Lora hashes",
    "Model hash",
    "TI hashes",
    "VAE hash",
    "Version",
}


def fields_of_parameters(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields that a text says, and what in it no request has; no fields where it is no such text."""
    found = read_parameters(text)
    if "Steps" not in found.pairs:
        return {}, {}

    fields: dict[str, Any] = {"prompt": found.prompt, "negative_prompt": found.negative_prompt}
    left_out: dict[str, str] = {}
    for key, value in found.pairs.items():
        if key in ("Sampler", "Schedule type", "Size") or key in _NOTHING_NEW:
            continue
        field, read = _FIELDS.get(key, ("", str))
        parsed = read(value) if field in InpaintRequest.model_fields else None
        if parsed is None:
            left_out[key] = value
        else:
            fields[field] = parsed

    for more, rest in (_sampler(found.pairs), _size(found.pairs)):
        fields |= more
        left_out |= rest
    fields |= _area(found.pairs)

    fields, refused = usable(fields)
    left_out |= {name: str(value) for name, value in refused.items()}
    return fields, dict(list(left_out.items())[:_MOST_LEFT_OUT])


def usable(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields that a request takes, and those that it does not."""
    taken: dict[str, Any] = {}
    refused: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            InpaintRequest.parse({name: value})
            taken[name] = value
        except RequestError:
            refused[name] = value
    return taken, refused


def _sampler(pairs: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The scheduler, with the spacing of its noise levels: in its name, as older versions have it, or beside it."""
    if "Sampler" not in pairs:
        return {}, {}
    sampler, spacing = pairs["Sampler"], pairs.get("Schedule type", "")
    is_curve = spacing in ("Karras", "Exponential")
    if is_curve and _found(f"{sampler} {spacing}"):
        return {"scheduler": f"{sampler} {spacing}"}, {}

    left_out = {"Schedule type": spacing} if spacing not in ("", "Automatic") else {}
    found = _found(sampler)
    if found is None:
        return {}, {"Sampler": sampler, **left_out}
    fields: dict[str, Any] = {"scheduler": sampler}
    # "Automatic" is the sampler's own spacing, which for most is Karras's, as here; no word of it meant none.
    if spacing != "Automatic" and found.spacing is None and schedulers.has_curves(found.scheduler):
        fields["karras_sigmas"] = False
    return fields, left_out


def _found(name: str) -> schedulers.Sampler | None:
    try:
        return schedulers.resolve_sampler(name)
    except RequestError:
        return None


def _size(pairs: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    size = pairs.get("Size")
    if size is None:
        return {}, {}
    match = _SIZE.fullmatch(size)
    if match is None:
        return {}, {"Size": size}
    return {"width": int(match[1]), "height": int(match[2])}, {}


def _area(pairs: Mapping[str, str]) -> dict[str, Any]:
    """The whole image where the text does not say otherwise: padding alone says nothing."""
    return {} if pairs.get("Inpaint area") == "Only masked" else {"mask_padding": None}
