"""A network of local reach, run on overlapping tiles where the whole does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Tiling", "in_tiles"]

# Sides and overlap in latents: 512 and 128 pixels at a factor of 8.
_SIDE, _OVERLAP = 64, 16


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sizes of a network that enlarges or shrinks its input.

    Attributes:
        grain: pixels of its input that are one latent.
        scale: sides of its output over those of its input.
        channels: of its output.
    """

    grain: int
    scale: float
    channels: int


def in_tiles(call: Callable[[Tensor], Tensor], whole: Tensor, tiling: Tiling) -> Tensor:
    """``call(whole)`` by overlapping tiles whose edges are blended; ``[B, C, H, W]`` → float32 ``[B, C', H', W']``.

    The result is not the same to the last bit: norms are computed over one tile at a time.
    """
    sides = [round(side * tiling.scale) for side in whole.shape[2:]]
    total = torch.zeros(len(whole), tiling.channels, *sides, device=whole.device)
    weights = torch.zeros(*sides, device=whole.device)
    edge = round(_OVERLAP * tiling.grain * tiling.scale)

    for rows in _spans(whole.shape[2], tiling.grain):
        for columns in _spans(whole.shape[3], tiling.grain):
            tile = whole[:, :, rows, columns].contiguous(memory_format=torch.channels_last)
            output = call(tile).float()
            vertical, horizontal = (_ramp(side, edge, whole.device) for side in output.shape[2:])
            soft = vertical[:, None] * horizontal

            out_rows, out_columns = _scaled(rows, tiling.scale), _scaled(columns, tiling.scale)
            total[:, :, out_rows, out_columns] += output * soft
            weights[out_rows, out_columns] += soft
    return total / weights


def _spans(count: int, grain: int) -> Iterator[slice]:
    """Tiles along one side: two or more of equal length, or a single one if it is hardly longer than their overlap."""
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


def _ramp(count: int, edge: int, device: torch.device) -> Tensor:
    """Weights that fall towards both ends, but not to 0."""
    positions = torch.arange(count, device=device, dtype=torch.float32)
    return torch.minimum(positions + 1, count - positions).clamp(max=edge) / edge
