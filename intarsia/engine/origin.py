"""``Origin``: what a result was made from, as its files record it, so that it can be made again from one of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intarsia.engine.plan import Plan
from intarsia.engine.request import InpaintRequest
from intarsia.engine.sampling import DEFAULT_SCHEDULER, DEFAULT_STEPS
from intarsia.images.embedded import NOTHING, EmbeddedMetadata
from intarsia.images.rgb_image import RgbImage
from intarsia.images.sources import is_address
from intarsia.redact import redacted
from intarsia.registry.entries import ModelEntry

__all__ = ["IMAGES", "Origin", "fields_for_files", "input_of", "source_of"]

IMAGES = ("init_image", "mask_image", "ip_adapter.image")
"""The images of a request, by field."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The request behind a result, in plain values that JSON has.

    Attributes:
        request: every field but the images; where the model's default counted, that.
        inputs: for each image of the request its ``sha256`` (of its pixels, as a plan has it), and where it came from
            a file or an address that as ``path`` or ``url``.
        embedded: EXIF, XMP and density in the file of ``init_image``.
    """

    request: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    embedded: EmbeddedMetadata = NOTHING


def fields_for_files(request: InpaintRequest, entry: ModelEntry, plan: Plan) -> dict[str, Any]:
    """Every field of a request but its images, whichever there are, with the model's defaults in place of None.

    A default that the model does not decide stays None, and so does all that a table of the caller's own settles.
    """
    asked = request.model_dump(mode="json", exclude={"init_image": True, "mask_image": True, "ip_adapter": {"image"}})
    defaults: dict[str, Any] = {
        "model": entry.id,
        "clip_skip": plan.prompt.clip_skip,
        "prompt_syntax": plan.prompt.syntax,
    }
    if asked.get("table") is None:
        defaults |= {"scheduler": DEFAULT_SCHEDULER, "steps": DEFAULT_STEPS}
        defaults |= {name: value for name, value in entry.defaults.items() if name in ("scheduler", "steps")}
    for name in ("model", "vae", "loras", "embeddings", "ip_adapter"):  # which may be paths
        asked[name] = _with_short_paths(asked[name])
    if asked["token_merging"] is True:
        asked["token_merging"] = plan.token_merging.ratio
    return {name: defaults.get(name) if value is None else value for name, value in asked.items()}


def input_of(value: object, image: RgbImage) -> dict[str, str]:
    """What is written of an image of the request: the hash of its pixels, and where it came from."""
    return {"sha256": image.sha256, **source_of(value, image.path)}


def source_of(value: object, path: str | None) -> dict[str, str]:
    """Where an image came from: its path as it was given, or its address without login, query and fragment.

    Args:
        value: what the request has.
        path: of the file that was read; None where there was none.
    """
    if isinstance(value, str) and is_address(value):
        return {"url": redacted(value.strip(), mark="")}
    return {"path": _without_home(path)} if path else {}


def _with_short_paths(value: Any) -> Any:
    """A value of JSON with the texts in it as :func:`_without_home` has them."""
    if isinstance(value, list):
        return [_with_short_paths(each) for each in value]
    if isinstance(value, dict):
        return {name: _with_short_paths(each) for name, each in value.items()}
    return _without_home(value) if isinstance(value, str) else value


def _without_home(path: str) -> str:
    """The path with "~" in place of the user's own folder, which is nobody else's business."""
    home = os.path.expanduser("~")
    absolute = Path(path)
    if not absolute.is_absolute() or home in ("~", os.sep) or not absolute.is_relative_to(home):
        return path
    return str(Path("~") / absolute.relative_to(home))
