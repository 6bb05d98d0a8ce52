"""Names of an autoencoder's tensors: those of the original code and of old diffusers → those of today's diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from intarsia.checkpoints.header import StoredTensor

__all__ = ["diffusers_vae_names", "modern_name", "vae_config"]

_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")

# Layers of the attention in the middle, before diffusers 0.13.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_MIDDLE = {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}
_TOP = {"norm_out": "conv_norm_out"}


def modern_name(name: str) -> str:
    """The name of a tensor of diffusers' as it is since version 0.13."""
    path, _, kind = name.rpartition(".")
    block, _, layer = path.rpartition(".")
    if layer in _RENAMED and "attentions" in block.split("."):
        return f"{block}.{_RENAMED[layer]}.{kind}"
    return name


def _diffusers_name(name: str, levels: int) -> str:
    """The original code's name of a tensor → diffusers'.

    Args:
        levels: of its resolutions; the decoder counts them from the other side.
    """
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return name

    part, _, inner = rest.partition(".")
    if part == "mid":
        return f"{side}.mid_block.{_middle(inner)}"
    if part in ("down", "up"):
        return f"{side}.{part}_blocks.{_block(part, inner, levels)}"
    return f"{side}.{_TOP.get(part, part)}.{inner}"


def _middle(name: str) -> str:
    """``attn_1.q.weight`` → ``attentions.0.to_q.weight``."""
    block, _, layer = name.partition(".")
    if block == "attn_1":
        own, _, kind = layer.partition(".")
        layer = f"{_ATTENTION.get(own, own)}.{kind}"
    return f"{_MIDDLE.get(block, block)}.{layer}"


def _block(part: str, name: str, levels: int) -> str:
    """``0.block.1.conv1.weight`` → ``0.resnets.1.conv1.weight``; ``up`` counts from the lowest resolution."""
    number, _, rest = name.partition(".")
    level = levels - 1 - int(number) if part == "up" else int(number)
    kind, _, inner = rest.partition(".")
    if kind == "block":
        return f"{level}.resnets.{inner.replace('nin_shortcut', 'conv_shortcut')}"
    return f"{level}.{kind}rs.0.{inner}"  # downsample, upsample


def diffusers_vae_names(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Stored names by diffusers' names, of a file in either spelling, without what is no part of an autoencoder."""
    numbers = [int(match[1]) for name in tensors if (match := re.match(r"encoder\.down\.(\d+)\.", name))]
    levels = 1 + max(numbers, default=-1)
    names = {}
    for stored in tensors:
        name = _diffusers_name(stored, levels) if levels else modern_name(stored)
        if name.split(".")[0] in _PARTS:
            names[name] = stored
    return names


def vae_config(shapes: Mapping[str, tuple[int, ...]], *, scaling_factor: float, force_upcast: bool) -> dict[str, Any]:
    """``config.json`` of an autoencoder, from the shapes of its tensors.

    Args:
        shapes: by diffusers' names.
        scaling_factor: of the family; no shape tells it.
    """
    widths: list[int] = []
    while (first := f"encoder.down_blocks.{len(widths)}.resnets.0.conv1.weight") in shapes:
        widths.append(shapes[first][0])
    blocks = {name.split(".")[4] for name in shapes if name.startswith("encoder.down_blocks.0.resnets.")}
    latents = shapes.get("decoder.conv_in.weight", ())
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": len(blocks),
        "latent_channels": latents[1] if len(latents) == 4 else 0,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "scaling_factor": scaling_factor,
        "force_upcast": force_upcast,
    }
