"""What a file says about its making: the ``parameters`` text that other tools read, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from intarsia.former_name import NAME, under_either_name
from intarsia.images.exif_texts import texts_in
from intarsia.images.json_text import as_text, json_in

__all__ = ["a1111_parameters", "read_metadata", "read_parameters_text"]

# The names that AUTOMATIC1111's web UI and the readers of its text use.
_SAMPLERS = {
    "DDIMInverseScheduler": "DDIM inverse",
    "DDIMScheduler": "DDIM",
    "DDPMScheduler": "DDPM",
    "DEISMultistepScheduler": "DEIS",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "DPMSolverSinglestepScheduler": "DPM++ 2S",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "IPNDMScheduler": "IPNDM",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "KarrasVeScheduler": "Karras VE",
    "LCMScheduler": "LCM",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "ScoreSdeVeScheduler": "Score SDE VE",
    "UniPCMultistepScheduler": "UniPC",
}
_MASKED_CONTENT = {"fill": "fill", "noise": "latent noise", "blank": "latent nothing"}
_SHOWN_HASH = 10

# Names of PNG text chunks that other programs write instead of ``parameters``.
_OF_OTHERS = {
    "workflow": "ComfyUI",
    "prompt": "ComfyUI",
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "Dream": "InvokeAI",
    "fooocus_scheme": "Fooocus",
}


def a1111_parameters(meta: Mapping[str, Any]) -> str:
    """The ``parameters`` text: prompt, negative prompt, then the ``Key: value`` pairs that are known.

    Args:
        meta: effective parameters in the names of a request (``Result.meta``); also ``mask_blur`` and
            ``version`` where they are known.
    """
    lines = [_prompt(meta)]
    if meta.get("negative_prompt"):
        lines.append(f"Negative prompt: {meta['negative_prompt']}")

    size = None
    if meta.get("width") and meta.get("height"):
        size = f"{meta['width']}x{meta['height']}"
    vae, vae_hash = _name_and_hash(meta.get("vae"))

    pairs = {
        "Steps": meta.get("steps"),
        "Sampler": _sampler(meta),
        "Schedule type": _schedule_type(meta),
        "CFG scale": meta.get("guidance_scale"),
        "Seed": meta.get("seed"),
        "Size": size,
        "Model hash": _short(meta.get("model_hash")),
        "Model": meta.get("model"),
        "VAE hash": vae_hash,
        "VAE": vae,
        "Denoising strength": meta.get("strength"),
        "Clip skip": meta.get("clip_skip"),
        "Eta": meta.get("eta"),
        "Token merging ratio": meta.get("token_merging") or None,
        **_about_mask(meta),
        "Lora hashes": _hashes((lora.get("id"), lora.get("sha256")) for lora in meta.get("loras") or ()),
        "TI hashes": _hashes(map(_name_and_hash, meta.get("embeddings") or ())),
        "Version": meta.get("version"),
    }

    known = {key: value for key, value in pairs.items() if value is not None}
    shown = [f"{key}: {_value(value)}" for key, value in known.items()]
    lines.append(", ".join(shown))
    return as_text("\n".join(lines))


def read_metadata(image: Image.Image) -> dict[str, Any] | None:
    """The JSON that an image's file holds of how it was made, under the current or the former name.

    Args:
        image: as opened: text chunks of a PNG, EXIF of a JPEG or WebP.

    Returns:
        The metadata (``Result.file_texts``); None where the file holds none that can be read.
    """
    return json_in(_texts_of(image)[0])


def read_parameters_text(image: Image.Image) -> str | None:
    """The ``parameters`` text of an image's file, which other programs write too; None where it holds none."""
    return _texts_of(image)[1]


def unread_metadata(image: Image.Image) -> str | None:
    """What a file says of how it was made that nothing here reads, in words: another program's, or damaged."""
    chunks = {str(name): value for name, value in image.info.items() if isinstance(value, str)}
    for name, program in _OF_OTHERS.items():
        if name in chunks:
            return f"metadata of {program} ({name})"
    if under_either_name(chunks) is not None:
        return f"a text {NAME} that is no JSON object"
    if "parameters" in chunks:
        return "a text parameters without any field of a request"
    return None


def _texts_of(image: Image.Image) -> tuple[str | None, str | None]:
    """JSON and ``parameters`` text, wherever the file's format has them."""
    chunks = {str(name): value for name, value in image.info.items() if isinstance(value, str)}
    json_text, parameters = texts_in(image.info.get("exif") or b"")
    comment = image.info.get("comment")  # of a JPEG whose EXIF data were too long
    if json_text is None and isinstance(comment, bytes):
        json_text = comment.decode("utf-8", "replace")
    return under_either_name(chunks) or json_text, chunks.get("parameters") or parameters


def _prompt(meta: Mapping[str, Any]) -> str:
    """The prompt, and LoRAs as tags behind it: where the web UI names them, and other tools look for them."""
    tags = [f"<lora:{lora['id']}:{lora['strength']:.12g}>" for lora in meta.get("loras") or ()]
    return " ".join(filter(None, [str(meta.get("prompt") or ""), *tags]))


def _sampler(meta: Mapping[str, Any]) -> str | None:
    scheduler = meta.get("scheduler")
    if not scheduler:
        return None
    name = _SAMPLERS.get(str(scheduler), str(scheduler))
    is_stochastic = "sde" in str(meta.get("algorithm_type") or "")
    if name == "DPM++ 2M" and is_stochastic:
        return "DPM++ 2M SDE Heun" if meta.get("solver_type") == "heun" else "DPM++ 2M SDE"
    return "DPM++ SDE" if name == "DPM++ 2S" and is_stochastic else name


def _schedule_type(meta: Mapping[str, Any]) -> str | None:
    """The curve that the noise levels follow; None where the web UI has no name for their spacing."""
    if meta.get("karras_sigmas"):
        return "Karras"
    return "Exponential" if meta.get("spacing") == "exponential" else None


def _about_mask(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The pairs of inpainting; what is the web UI's own default it does not write."""
    pairs: dict[str, Any] = {"Mask blur": meta.get("mask_blur")}
    if meta.get("invert_mask"):
        pairs["Mask mode"] = "Inpaint not masked"
    if "mask_padding" in meta:
        padding = meta["mask_padding"]
        pairs["Inpaint area"] = "Whole picture" if padding is None else "Only masked"
        pairs["Masked area padding"] = padding if isinstance(padding, int) else None
    content = meta.get("masked_content")
    if content is not None:
        pairs["Masked content"] = _MASKED_CONTENT.get(str(content), str(content))
    return pairs


def _name_and_hash(identity: object) -> tuple[str | None, str | None]:
    """``id:sha256`` in two; nothing for a model's own, which has no hash."""
    name, colon, digest = str(identity or "").rpartition(":")
    return (name, _short(digest)) if colon else (None, None)


def _short(digest: object) -> str | None:
    return str(digest)[:_SHOWN_HASH] if digest else None


def _hashes(parts: Iterable[tuple[Any, Any]]) -> str | None:
    """``name: hash`` of each part, as one value."""
    shown = [f"{name}: {_short(digest)}" for name, digest in parts if name and digest]
    return ", ".join(shown) or None


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
