"""Overlapping tiles of an image, for a network of local reach: where each begins and ends, and how their edges fade."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["OVERLAP", "Tiling", "ramp", "scaled", "spans"]

# Sides and overlap in latents: 512 and 128 pixels at a factor of 8.
_SIDE = 64
OVERLAP = 16


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

    @property
    def edge(self) -> int:
        """Pixels of the output in which two tiles overlap."""
        return round(OVERLAP * self.grain * self.scale)


def spans(count: int, grain: int) -> Iterator[slice]:
    """Tiles along one side: two or more of equal length, or a single one if it is hardly longer than their overlap."""
    latents = count // grain
    side = min(_SIDE, latents // 2 + OVERLAP // 2)
    if side <= OVERLAP:
        yield slice(0, count)
        return

    tiles = -(-(latents - OVERLAP) // (side - OVERLAP))
    last_start = latents - side
    for tile in range(tiles):
        start = tile * last_start // (tiles - 1)
        stop = start + side
        yield slice(start * grain, stop * grain)


def scaled(span: slice, scale: float) -> slice:
    """A span of the input in pixels of the output."""
    start = round(span.start * scale)
    stop = round(span.stop * scale)
    return slice(start, stop)


def ramp(count: int, edge: int) -> NDArray[np.float32]:
    """Weights along a side of a tile, float32 ``[count]``: 1 in the middle, falling to 1 / ``edge`` at both ends."""
    positions = np.arange(count, dtype=np.float32)
    nearer = np.minimum(positions + 1, count - positions)
    weights = nearer.clip(max=edge) / np.float32(edge)
    return weights.astype(np.float32, copy=False)
