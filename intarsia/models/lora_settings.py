"""PEFT's configuration of a LoRA, which says alpha where no tensor does."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from intarsia.checkpoints.files import read_json
from intarsia.checkpoints.header import Header
from intarsia.checkpoints.lora_families import peft_settings_beside
from intarsia.errors import WeightsError, one_line, shown

__all__ = ["Settings", "scale_of", "stored_settings"]

_KEY = "lora_adapter_metadata"


class Settings(dict[str, Any]):
    """Fields of PEFT's LoraConfig, in diffusers' files by network: ``unet.lora_alpha``, ``unet.r`` …

    ``source`` is what errors name.
    """

    source: str = ""


def stored_settings(header: Header) -> Settings:
    """Those in the file's metadata, or of a folder that PEFT wrote those beside it; WeightsError if unreadable."""
    text = header.metadata.get(_KEY)
    beside = peft_settings_beside(header)
    fields: Any = {}
    source = f"{header.path}: its {_KEY}"
    if text is not None:
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise WeightsError(f"{source} are not JSON: {one_line(exc)}") from exc
    elif beside is not None:
        fields, source = read_json(beside), str(beside)
    if not isinstance(fields, dict):
        raise WeightsError(f"{source} must be a JSON object, not {type(fields).__name__}")

    settings = Settings(fields)
    settings.source = source
    return settings


def scale_of(settings: Settings, network: str, layer: str, rank: int) -> float:
    """alpha / rank of a layer by PEFT's rules; 1 where nothing is stored."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        prefix, _, field = key.rpartition(".")
        if prefix in ("", network):
            found[field] = value

    alpha = found.get("lora_alpha")
    others = found.get("alpha_pattern") or {}
    if not isinstance(others, Mapping):
        raise WeightsError(f"{settings.source}: alpha_pattern must be an object, not {shown(others)}")
    full = f"text_model.{layer}"
    for pattern, value in others.items():
        ending = "." + pattern.removeprefix("^")
        if f".{layer}".endswith(ending) or f".{full}".endswith(ending):
            alpha = value

    if alpha is None:
        return 1.0
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise WeightsError(f"{settings.source}: lora_alpha must be a number, not {shown(alpha)}")
    divisor = rank**0.5 if found.get("use_rslora") else rank
    return float(alpha) / divisor
