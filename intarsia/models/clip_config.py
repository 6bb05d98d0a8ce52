"""Shapes of CLIP's towers, read from their ``config.json``: these keys, and no other. Nothing here needs torch.

What builds a tower gets what is read here and never the config itself: transformers takes further keys for the name of
code to load (``attn_implementation`` fetches kernels from the hub).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intarsia.checkpoints.files import read_json
from intarsia.errors import WeightsError, shown
from intarsia.models.config_values import number, refuse, whole

__all__ = [
    "ACTIVATIONS",
    "MOST_TOKENS",
    "is_projected",
    "read_checker_shape",
    "read_text_shape",
    "read_vision_shape",
    "text_shape",
    "vision_shape",
]

_PLAIN, _PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"

ACTIVATIONS = ("quick_gelu", "gelu")
MOST_TOKENS = 2**24
"""Rows of a token table that a config may ask for."""

# Defaults are those of transformers' CLIPTextConfig and CLIPVisionConfig.
_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def read_text_shape(path: Path, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """:func:`text_shape` of a ``config.json``; errors name the file. ``config`` is its content, if it was read."""
    config = read_json(path) if config is None else config
    try:
        return text_shape(config)
    except WeightsError as exc:
        raise WeightsError(f"{path}: {exc}") from exc


def read_vision_shape(path: Path) -> dict[str, Any]:
    """:func:`vision_shape` of an image encoder's ``config.json``; errors name the file."""
    return _vision_shape(path, read_json(path))


def read_checker_shape(path: Path) -> tuple[dict[str, Any], int]:
    """Tower and length of embeddings of a safety checker's ``config.json``; errors name the file."""
    config = read_json(path)
    tower = config.get("vision_config")
    if not isinstance(tower, dict):
        raise WeightsError(
            f"{path}: not a safety checker's config: vision_config must be an object, not {shown(tower)}"
        )
    try:
        width = whole("safety checker", config, "projection_dim", 512)
    except WeightsError as exc:
        raise WeightsError(f"{path}: {exc}") from exc
    return _vision_shape(path, tower), width


def _vision_shape(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return vision_shape(config)
    except WeightsError as exc:
        raise WeightsError(f"{path}: {exc}") from exc


def is_projected(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a text encoder also gives a pooled vector, by the class that its config names."""
    name = config.get("architectures")
    if name in (None, []):
        name = _PLAIN
    elif isinstance(name, list):
        name = name[0]
    if name not in (_PLAIN, _PROJECTED):
        raise WeightsError(f"{path}: architectures must name {_PLAIN} or {_PROJECTED}, not {shown(name)}")
    return bool(name == _PROJECTED)


def text_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a text encoder is built of, under transformers' names. WeightsError names key and value."""
    kind = "CLIP text"
    refuse(kind, config, {"use_attention_mask": (False, None)})
    shape = _tower(kind, config, _TEXT)
    shape["vocab_size"] = whole(kind, config, "vocab_size", 49408, most=MOST_TOKENS)
    shape["max_position_embeddings"] = whole(kind, config, "max_position_embeddings", 77)
    shape["eos_token_id"] = whole(kind, config, "eos_token_id", 49407, least=0, most=MOST_TOKENS)
    return shape


def vision_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an image encoder is built of, under transformers' names. WeightsError names key and value."""
    kind = "CLIP image"
    refuse(kind, config, {"num_channels": (3,)})
    shape = _tower(kind, config, _VISION)
    shape["image_size"] = whole(kind, config, "image_size", 224)
    shape["patch_size"] = whole(kind, config, "patch_size", 32)
    if shape["patch_size"] > shape["image_size"]:
        size = shape["image_size"]
        raise WeightsError(f"{kind} config: patch_size must be at most image_size={size}, not {shape['patch_size']}")
    return shape


def _tower(kind: str, config: Mapping[str, Any], defaults: Mapping[str, int]) -> dict[str, Any]:
    activation = config.get("hidden_act", ACTIVATIONS[0])
    if activation not in ACTIVATIONS:
        raise WeightsError(f"{kind} config: hidden_act must be {' or '.join(ACTIVATIONS)}, not {shown(activation)}")

    shape: dict[str, Any] = {key: whole(kind, config, key, default) for key, default in defaults.items()}
    shape["projection_dim"] = whole(kind, config, "projection_dim", 512)
    shape["layer_norm_eps"] = number(kind, config, "layer_norm_eps", 1e-5)
    shape["hidden_act"] = activation

    heads = shape["num_attention_heads"]
    width = shape["hidden_size"]
    if width % heads:
        raise WeightsError(f"{kind} config: num_attention_heads must divide hidden_size={width}, not {shown(heads)}")
    return shape
