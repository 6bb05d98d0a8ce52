"""What a file says about its making: the ``parameters`` text that other tools read, JSON, and EXIF."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

from intarsia.former_name import NAME, under_either_name

__all__ = ["a1111_parameters", "as_text", "exif", "read_metadata", "to_json"]

# The names that AUTOMATIC1111's web UI and the readers of its text use.
_SAMPLERS = {
    "DDIMScheduler": "DDIM",
    "DDPMScheduler": "DDPM",
    "DEISMultistepScheduler": "DEIS",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "DPMSolverSinglestepScheduler": "DPM++ 2S",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "LCMScheduler": "LCM",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}
_USER_COMMENT = 0x9286
_SHOWN_HASH = 10


def a1111_parameters(meta: Mapping[str, Any]) -> str:
    """The ``parameters`` text: prompt, negative prompt, then the ``Key: value`` pairs that are known.

    Args:
        meta: effective parameters in the names of a request (``Result.meta``); also ``mask_blur`` and
            ``version`` where they are known.
    """
    lines = [str(meta.get("prompt") or "")]
    if meta.get("negative_prompt"):
        lines.append(f"Negative prompt: {meta['negative_prompt']}")

    size = model_hash = None
    if meta.get("width") and meta.get("height"):
        size = f"{meta['width']}x{meta['height']}"
    if meta.get("model_hash"):
        model_hash = str(meta["model_hash"])[:_SHOWN_HASH]

    pairs = {
        "Steps": meta.get("steps"),
        "Sampler": _sampler(meta),
        "CFG scale": meta.get("guidance_scale"),
        "Seed": meta.get("seed"),
        "Size": size,
        "Model hash": model_hash,
        "Model": meta.get("model"),
        "Denoising strength": meta.get("strength"),
        "Clip skip": meta.get("clip_skip"),
        "Mask blur": meta.get("mask_blur"),
        "Version": meta.get("version"),
    }

    known = {key: value for key, value in pairs.items() if value is not None}
    shown = [f"{key}: {_value(value)}" for key, value in known.items()]
    lines.append(", ".join(shown))
    return as_text("\n".join(lines))


def as_text(text: str) -> str:
    """``text`` with halves of surrogate pairs replaced: JSON can bring them in and no file can hold them."""
    units = text.encode("utf-16", "surrogatepass")
    return units.decode("utf-16", "replace")


def to_json(metadata: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """``metadata`` as one line of JSON, keys sorted.

    Raises:
        ValueError: a number that JSON does not have (NaN, infinity).
        TypeError: a value that is not plain data.
    """
    return json.dumps(metadata, sort_keys=True, ensure_ascii=ascii_only, allow_nan=False)


def exif(parameters: str | None, metadata: Mapping[str, Any] | None, software: str = NAME) -> bytes:
    """An EXIF block for formats without text chunks (JPEG, WebP).

    ``parameters`` is the UserComment, in the UTF-16 form that other tools write and read; ``metadata`` is
    JSON in ImageDescription, which holds ASCII only.
    """
    block = Image.Exif()
    block[ExifTags.Base.Software] = software
    if metadata is not None:
        block[ExifTags.Base.ImageDescription] = to_json(metadata, ascii_only=True)
    if parameters is not None:
        comment = as_text(parameters).encode("utf-16-be")
        directory = block.get_ifd(ExifTags.IFD.Exif)
        directory[_USER_COMMENT] = b"UNICODE\0" + comment
    return block.tobytes()


def read_metadata(image: Image.Image) -> dict[str, Any] | None:
    """The JSON that an image's file holds of how it was made, under the current or the former name.

    Args:
        image: as opened: text chunks of a PNG, EXIF of a JPEG or WebP.

    Returns:
        The metadata (``Result.meta`` with the image's own seed); None where the file holds none that can be read.
    """
    text = under_either_name(getattr(image, "text", {}))
    if text is None:
        text = image.getexif().get(ExifTags.Base.ImageDescription)
    try:
        metadata = json.loads(text or "null")
    except (TypeError, ValueError, RecursionError):  # another program's description
        return None
    return metadata if isinstance(metadata, dict) else None


def _sampler(meta: Mapping[str, Any]) -> str | None:
    scheduler = meta.get("scheduler")
    if not scheduler:
        return None
    name = _SAMPLERS.get(str(scheduler), str(scheduler))
    if name == "DPM++ 2M" and "sde" in str(meta.get("algorithm_type") or ""):
        name = "DPM++ 2M SDE Heun" if meta.get("solver_type") == "heun" else "DPM++ 2M SDE"
    if meta.get("spacing") == "exponential":
        return f"{name} Exponential"
    return f"{name} Karras" if meta.get("karras_sigmas") else name


def _value(value: Any) -> str:
    """A value of the text: whole floats without ".0"; quoted as JSON where it would be read otherwise."""
    text = str(value)
    if isinstance(value, float):
        text = f"{value:.12g}"

    has_marks = any(mark in text for mark in ",:\r\n")
    has_blanks = text != text.strip()
    if has_marks or has_blanks or text.startswith('"'):
        return json.dumps(text, ensure_ascii=False)
    return text
