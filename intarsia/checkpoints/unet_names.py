"""Names and shapes of a UNet in the original code's checkpoints → names and ``config.json`` of diffusers.

There a UNet is a list of input blocks, a middle and a list of output blocks; diffusers counts levels (resolutions) and
blocks in each. All that tells one from the other is in the names and shapes themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from intarsia.checkpoints.header import StoredTensor

__all__ = ["FIXED", "RESIDUAL", "OriginalUNet"]

FIXED = {
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
"""Layers and blocks that have one name each, by the original code's."""

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Layers of a residual block, by the original code's names."""

# Heads of Stable Diffusion 1's attention; later versions have heads of 64 channels.
_HEADS = 8
_CHANNELS_OF_HEAD = 64

# Width that SDXL embeds each of its six sizes in.
_SIZE_WIDTH = 256


@dataclass(frozen=True)
class OriginalUNet:
    """A UNet in the original code's names.

    Attributes:
        tensors: the header's entries, without what their names begin with in the file.
    """

    tensors: Mapping[str, StoredTensor]

    @cached_property
    def names(self) -> dict[str, str]:
        """Stored names by diffusers' names; a tensor that is no part of a UNet keeps its own."""
        return {self._diffusers_name(name): name for name in self.tensors}

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json`` of the same network in a diffusers folder."""
        levels = len(self._blocks)
        down = [f"down_blocks.{level}.attentions.0" in self._layers for level in range(levels)]
        up = [f"up_blocks.{level}.attentions.0" in self._layers for level in range(levels)]
        widths = [self._shape(f"down_blocks.{level}.resnets.0.conv1")[0] for level in range(levels)]
        middle = self._depth("mid_block.attentions.0")
        depths = [self._depth(f"down_blocks.{i}.attentions.0") if down[i] else 1 for i in range(levels)]
        # of the level without attention, and what the middle has
        depths[-1] = middle

        config: dict[str, Any] = {
            "_class_name": "UNet2DConditionModel",
            "in_channels": self._shape("conv_in")[1],
            "out_channels": self._shape("conv_out")[0],
            "block_out_channels": widths,
            "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in down],
            "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in up],
            "layers_per_block": self._layers_per_block,
            "transformer_layers_per_block": depths,
            "cross_attention_dim": self._context_width,
            "use_linear_projection": self._has_linear_projection,
            "attention_head_dim": self._heads(widths),
            "norm_num_groups": 32,
        }
        if "add_embedding.linear_1" in self._layers:
            config |= {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": _SIZE_WIDTH,
                "projection_class_embeddings_input_dim": self._shape("add_embedding.linear_1")[1],
            }
        return config

    def _heads(self, widths: list[int]) -> list[int]:
        """Of each level; Stable Diffusion 1 projects into its transformers by convolutions, all others by matrices."""
        if not self._has_linear_projection:
            return [_HEADS] * len(widths)
        return [max(1, width // _CHANNELS_OF_HEAD) for width in widths]

    @cached_property
    def _has_linear_projection(self) -> bool:
        return len(self._shape("mid_block.attentions.0.proj_in")) == 2

    @property
    def _context_width(self) -> int:
        return self._shape("mid_block.attentions.0.transformer_blocks.0.attn2.to_k")[1]

    @cached_property
    def _blocks(self) -> list[list[int]]:
        """Numbers of the input blocks of each level; the last of a level but the lowest one makes the image smaller."""
        numbers = {int(name.split(".")[1]) for name in self.tensors if name.startswith("input_blocks.")}
        levels: list[list[int]] = [[]]
        for number in sorted(numbers - {0}):
            levels[-1].append(number)
            if f"input_blocks.{number}.0.op.weight" in self.tensors:
                levels.append([])
        return levels

    @cached_property
    def _layers_per_block(self) -> int:
        """Residual blocks of a level on the way down; there is one more on the way up."""
        return len(self._blocks[-1])

    @cached_property
    def _layers(self) -> frozenset[str]:
        """Names of layers and of what they are in, in diffusers' spelling."""
        found: set[str] = set()
        for name in self.names:
            steps = name.split(".")
            found.update(".".join(steps[:count]) for count in range(1, len(steps)))
        return frozenset(found)

    def _shape(self, layer: str) -> tuple[int, ...]:
        stored = self.names.get(f"{layer}.weight")
        return self.tensors[stored].shape if stored is not None else (0, 0)

    def _depth(self, transformer: str) -> int:
        """Transformer blocks behind one another."""
        depth = 0
        while f"{transformer}.transformer_blocks.{depth}" in self._layers:
            depth += 1
        return depth

    def _diffusers_name(self, name: str) -> str:
        layer, _, kind = name.rpartition(".")
        if layer in FIXED:
            return f"{FIXED[layer]}.{kind}"
        match = re.fullmatch(r"(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)", layer)
        if match is not None:
            side, number, part, rest = match.groups()
            place = self._down(int(number), rest) if side == "input_blocks" else self._up(int(number), part, rest)
            return f"{place}.{kind}"

        match = re.fullmatch(r"middle_block\.([012])\.(.+)", layer)
        if match is not None:
            block = FIXED[f"middle_block.{match[1]}"]
            return f"{block}.{RESIDUAL.get(match[2], match[2])}.{kind}"
        return name

    def _down(self, number: int, rest: str) -> str:
        level = next((i for i, blocks in enumerate(self._blocks) if number in blocks), 0)
        if rest == "op":
            return f"down_blocks.{level}.downsamplers.0.conv"
        index = self._blocks[level].index(number) if number in self._blocks[level] else 0
        return f"down_blocks.{level}.{_layer(index, rest)}"

    def _up(self, number: int, part: str, rest: str) -> str:
        level, index = divmod(number, self._layers_per_block + 1)
        if rest == "conv" and part in ("1", "2"):
            return f"up_blocks.{level}.upsamplers.0.conv"
        return f"up_blocks.{level}.{_layer(index, rest)}"


def _layer(index: int, rest: str) -> str:
    """A layer of a block: of its residual block, whose layers have other names, or of its attention."""
    if rest in RESIDUAL:
        return f"resnets.{index}.{RESIDUAL[rest]}"
    return f"attentions.{index}.{rest}"
