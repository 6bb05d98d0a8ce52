"""A network of local reach, run on overlapping tiles where the whole does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia.kernels.launch import ceil_div

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
    batch, _, height, width = whole.shape
    device = whole.device
    sides = (round(height * tiling.scale), round(width * tiling.scale))
    edge = round(_OVERLAP * tiling.grain * tiling.scale)
    total = torch.zeros(batch, tiling.channels, *sides, device=device)
    weights = torch.zeros(*sides, device=device)

    for rows in _spans(height, tiling.grain):
        for columns in _spans(width, tiling.grain):
            tile = whole[:, :, rows, columns]
            tile = tile.contiguous(memory_format=torch.channels_last)
            output = call(tile).float()

            vertical = _ramp(output.shape[2], edge, device)
            horizontal = _ramp(output.shape[3], edge, device)
            soft = vertical[:, None] * horizontal

            out_rows = _scaled(rows, tiling.scale)
            out_columns = _scaled(columns, tiling.scale)
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

    tiles = ceil_div(latents - _OVERLAP, side - _OVERLAP)
    last_start = latents - side
    for tile in range(tiles):
        start = tile * last_start // (tiles - 1)
        stop = start + side
        yield slice(start * grain, stop * grain)


def _scaled(span: slice, scale: float) -> slice:
    start = round(span.start * scale)
    stop = round(span.stop * scale)
    return slice(start, stop)


def _ramp(count: int, edge: int, device: torch.device) -> Tensor:
    """Weights that fall towards both ends, but not to 0."""
    positions = torch.arange(count, device=device, dtype=torch.float32)
    from_start = positions + 1
    from_end = count - positions
    nearer = torch.minimum(from_start, from_end)
    return nearer.clamp(max=edge) / edge
