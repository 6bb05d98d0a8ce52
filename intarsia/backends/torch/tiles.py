"""A network of local reach, run on overlapping tiles where the whole does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from intarsia.backends.tile_spans import Tiling, ramp, scaled, spans

__all__ = ["Tiling", "in_tiles"]


def in_tiles(call: Callable[[Tensor], Tensor], whole: Tensor, tiling: Tiling) -> Tensor:
    """``call(whole)`` by overlapping tiles whose edges are blended; ``[B, C, H, W]`` → float32 ``[B, C', H', W']``.

    The result is not the same to the last bit: norms are computed over one tile at a time.
    """
    batch, _, height, width = whole.shape
    device = whole.device
    sides = (round(height * tiling.scale), round(width * tiling.scale))
    total = torch.zeros(batch, tiling.channels, *sides, device=device)
    weights = torch.zeros(*sides, device=device)

    for rows in spans(height, tiling.grain):
        for columns in spans(width, tiling.grain):
            tile = whole[:, :, rows, columns]
            tile = tile.contiguous(memory_format=torch.channels_last)
            output = call(tile).float()

            vertical = _ramp(output.shape[2], tiling.edge, device)
            horizontal = _ramp(output.shape[3], tiling.edge, device)
            soft = vertical[:, None] * horizontal

            out_rows = scaled(rows, tiling.scale)
            out_columns = scaled(columns, tiling.scale)
            total[:, :, out_rows, out_columns] += output * soft
            weights[out_rows, out_columns] += soft
    return total / weights


def _ramp(count: int, edge: int, device: torch.device) -> Tensor:
    return torch.from_numpy(ramp(count, edge)).to(device)
