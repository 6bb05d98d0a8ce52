"""Names and shapes of text encoders in checkpoints → names and ``config.json`` of transformers.

Stable Diffusion 1's, and SDXL's first, are stored as transformers has them; Stable Diffusion 2's, and SDXL's second, as
OpenCLIP has them: queries, keys and values in one tensor, and a projection that is multiplied from the right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intarsia.checkpoints.header import StoredTensor

__all__ = ["OpenClipPlace", "open_clip_config", "open_clip_places", "transformers_config", "transformers_names"]

_CHANNELS_OF_HEAD = 64
_OPEN_TOP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_LAYERS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_PROJECTION = "text_projection"
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.?")


@dataclass(frozen=True)
class OpenClipPlace:
    """Where a tensor of transformers' is in a file of OpenCLIP's; see :class:`intarsia.checkpoints.stored.Place`."""

    name: str
    rows: tuple[int, int] | None = None
    transposed: bool = False


def transformers_names(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Stored names by transformers' names; files of NovelAI's time lack the ``text_model.`` in front."""
    names = {}
    for name in tensors:
        if not name.endswith("position_ids"):  # a constant
            names[f"text_model.{name.removeprefix('text_model.')}"] = name
    return names


def transformers_config(tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """``config.json`` of CLIP-L by its shapes."""
    shapes = {name: tensors[stored].shape for name, stored in transformers_names(tensors).items()}
    layers = _count(shapes, r"text_model\.encoder\.layers\.(\d+)\.")
    rows, width = _pair(shapes, "text_model.embeddings.token_embedding.weight")
    positions, _ = _pair(shapes, "text_model.embeddings.position_embedding.weight")
    inner, _ = _pair(shapes, "text_model.encoder.layers.0.mlp.fc1.weight")
    return {
        "architectures": ["CLIPTextModel"],
        "hidden_act": "quick_gelu",
        "hidden_size": width,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "num_attention_heads": max(1, width // _CHANNELS_OF_HEAD),
        "num_hidden_layers": layers,
        "projection_dim": width,
        "vocab_size": rows,
    }


def open_clip_places(tensors: Mapping[str, StoredTensor], *, layers: int, projected: bool) -> dict[str, OpenClipPlace]:
    """Places by transformers' names.

    Args:
        layers: that are used; Stable Diffusion 2 leaves out the last one.
        projected: whether the projection of the pooled vector belongs to the network.
    """
    places: dict[str, OpenClipPlace] = {}
    for name, tensor in tensors.items():
        if name in _OPEN_TOP:
            places[f"text_model.{_OPEN_TOP[name]}"] = OpenClipPlace(name)
        elif name == _PROJECTION and projected:
            places[f"{_PROJECTION}.weight"] = OpenClipPlace(name, transposed=True)
        elif name == f"{_PROJECTION}.weight" and projected:
            places[name] = OpenClipPlace(name)
        else:
            places |= _of_block(name, tensor, layers)
    return places


def _of_block(name: str, tensor: StoredTensor, layers: int) -> dict[str, OpenClipPlace]:
    """The places of what a tensor of one block holds; none for a block that is not used, and for what is no block's."""
    match = _BLOCK.fullmatch(name)
    if match is None or int(match[1]) >= layers:
        return {}
    prefix, rest = f"text_model.encoder.layers.{match[1]}", match[2]

    packed = re.fullmatch(r"attn\.in_proj_(weight|bias)", rest)
    if packed is not None:
        height = tensor.shape[0] // 3
        return {
            f"{prefix}.self_attn.{part}_proj.{packed[1]}": OpenClipPlace(name, rows=(i * height, (i + 1) * height))
            for i, part in enumerate("qkv")
        }

    layer, _, kind = rest.rpartition(".")
    if layer not in _OPEN_LAYERS:
        return {}
    return {f"{prefix}.{_OPEN_LAYERS[layer]}.{kind}": OpenClipPlace(name)}


def open_clip_config(tensors: Mapping[str, StoredTensor], *, projected: bool) -> dict[str, Any]:
    """``config.json`` of an OpenCLIP text encoder by its shapes; without a projection the last layer is not used."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    stored_layers = _count(shapes, r"transformer\.resblocks\.(\d+)\.")
    rows, width = _pair(shapes, "token_embedding.weight")
    positions, _ = _pair(shapes, "positional_embedding")
    inner, _ = _pair(shapes, "transformer.resblocks.0.mlp.c_fc.weight")
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "num_attention_heads": max(1, width // _CHANNELS_OF_HEAD),
        "num_hidden_layers": stored_layers if projected else stored_layers - 1,
        "projection_dim": _projection_width(shapes, width),
        "vocab_size": rows,
    }


def _projection_width(shapes: Mapping[str, tuple[int, ...]], width: int) -> int:
    if f"{_PROJECTION}.weight" in shapes:
        return _pair(shapes, f"{_PROJECTION}.weight")[0]
    return _pair(shapes, _PROJECTION)[1] or width


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """One more than the highest number in names that begin so."""
    numbers = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    return 1 + max(numbers, default=-1)


def _pair(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int]:
    """A matrix' shape; zeros where it is missing or none, which its config is then refused for."""
    shape = shapes.get(name, ())
    return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)
