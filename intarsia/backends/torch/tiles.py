"""A network of local reach, run on overlapping tiles where the whole does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Tiling", "in_tiles"]

# Sides and overlap in latents: 512 and 128 pixels at a factor of 8.
_SIDE, _OVERLAP = 64, 16


@dataclass(frozen=True)
class Tiling:
    """Shapes of a network that enlarges or shrinks.

    Attributes:
        grain: pixels of its input that are one latent.
        scale: sides of its output over those of its input.
        channels: of its output.
    """

    grain: int
    scale: float
    channels: int


def in_tiles(call: Callable[[Tensor], Tensor], whole: Tensor, tiling: Tiling) -> Tensor:
    """``call(whole)``, put together of tiles with soft edges; ``[B, C, H, W]`` → float32 ``[B, C', H', W']``.

    It is not the same to the last bit: norms see a tile at a time, and edges are blended.
    """
    sides = [round(side * tiling.scale) for side in whole.shape[2:]]
    total = torch.zeros(len(whole), tiling.channels, *sides, device=whole.device)
    weights = torch.zeros(*sides, device=whole.device)
    edge = round(_OVERLAP * tiling.grain * tiling.scale)
    for rows in _spans(whole.shape[2], tiling.grain):
        for columns in _spans(whole.shape[3], tiling.grain):
            tile = whole[:, :, rows, columns].contiguous(memory_format=torch.channels_last)
            made = call(tile).float()
            soft = _ramp(made.shape[2], edge, made)[:, None] * _ramp(made.shape[3], edge, made)
            high, wide = _scaled(rows, tiling.scale), _scaled(columns, tiling.scale)
            total[:, :, high, wide] += made * soft
            weights[high, wide] += soft
    return total / weights


def _spans(count: int, grain: int) -> Iterator[slice]:
    """Tiles along one side: two or more of equal length, unless it is hardly longer than their overlap."""
    latents = count // grain
    side = min(_SIDE, latents // 2 + _OVERLAP // 2)
    if side <= _OVERLAP:
        yield slice(0, count)
        return
    tiles = -(-(latents - _OVERLAP) // (side - _OVERLAP))
    for tile in range(tiles):
        start = tile * (latents - side) // (tiles - 1)
        yield slice(start * grain, (start + side) * grain)


def _scaled(span: slice, scale: float) -> slice:
    return slice(round(span.start * scale), round(span.stop * scale))


def _ramp(count: int, edge: int, like: Tensor) -> Tensor:
    """Weights that fall towards both ends, and nowhere to 0."""
    place = torch.arange(count, device=like.device, dtype=torch.float32)
    return torch.minimum(place + 1, count - place).clamp(max=edge) / edge
