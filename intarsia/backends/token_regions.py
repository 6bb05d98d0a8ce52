"""Token merging on the host: which tokens may merge under a mask, and which ones are destinations.

Shapes depend on settings, size and mask only, never on the tokens. What each lane draws depends on its own starting
noise, so that its image does not depend on the lanes it is batched with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intarsia.token_merging import TokenMerging

__all__ = ["TokenRegion", "draw_choices", "find_regions"]

BUCKETS = 16
"""Masks differ, shapes should not: merged tokens are counted in steps of this part of the resolution."""

NEAR = 1
"""Tokens around the mask that are protected with it."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenRegion:
    """The tokens of one feature map that may merge under a mask.

    Attributes:
        height, width: of the feature map, in tokens.
        merged: tokens that disappear.
        protected: ``[H*W]``, True is neither source nor destination.
    """

    height: int
    width: int
    merged: int
    protected: Flags

    @property
    def cells(self) -> int:
        """Whole 2x2 cells; each has one destination."""
        return (self.height // 2) * (self.width // 2)


def find_regions(
    settings: TokenMerging, sizes: Sequence[tuple[int, int]], mask: np.ndarray, *, mask_aware: bool = True
) -> tuple[TokenRegion, ...]:
    """The regions of the resolutions that merge; a resolution that merges nothing has none.

    Args:
        sizes: heights and widths of the feature maps with attention, highest resolution first.
        mask: ``[h, w]`` of 0 and 1 at the latents' resolution, 1 is repainted.
        mask_aware: protect tokens in and near the mask, because only they reach the image; the ratio is then of the
            others. Without, the mask has no effect, as in tomesd.
    """
    merging_sizes = sizes[: settings.levels]
    if mask_aware:
        regions = [_region_outside(mask > 0, size, settings.ratio) for size in merging_sizes]
    else:
        regions = [_whole_region(size, settings.ratio) for size in merging_sizes]
    return tuple(region for region in regions if region.merged)


def _region_outside(mask: Flags, size: tuple[int, int], ratio: float) -> TokenRegion:
    """The region outside a mask."""
    height, width = size
    protected = _protected_tokens(mask, height, width)
    in_whole_cells = protected[: height // 2 * 2, : width // 2 * 2]

    # cells are protected as a whole, so three quarters or more of the free tokens are sources
    merged = 0
    if not in_whole_cells.all():
        free = int((~protected).sum())
        step = max(1, height * width // BUCKETS)
        merged = int(free * ratio) // step * step
    return TokenRegion(height=height, width=width, merged=merged, protected=protected.ravel())


def _whole_region(size: tuple[int, int], ratio: float) -> TokenRegion:
    """The region that no mask protects."""
    height, width = size
    tokens = height * width
    sources = tokens - (height // 2) * (width // 2)
    merged = min(int(tokens * ratio), sources)
    return TokenRegion(height=height, width=width, merged=merged, protected=np.zeros(tokens, np.bool_))


def _protected_tokens(mask: Flags, height: int, width: int) -> Flags:
    """``[height, width]``: tokens of every cell that the mask, or a token near it, reaches."""
    inside = _max_pooled(_max_pooled(mask, height).T, width).T
    window = 2 * NEAR + 1
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(inside, NEAR), (window, window))
    protected: Flags = np.asarray(windows.any(axis=(2, 3)))

    rows, columns = height // 2, width // 2
    if rows and columns:
        in_cells = protected[: 2 * rows, : 2 * columns]
        cells = in_cells.reshape(rows, 2, columns, 2).any(axis=(1, 3))
        in_cells[:] = cells.repeat(2, axis=0).repeat(2, axis=1)
    return protected


def _max_pooled(mask: Flags, count: int) -> Flags:
    """``count`` rows, each the maximum of all rows that reach into it (adaptive max pooling)."""
    size = len(mask)
    pooled = []
    for row in range(count):
        first = row * size // count
        end = -(-(row + 1) * size // count)
        pooled.append(mask[first:end].any(axis=0))
    return np.stack(pooled)


def draw_choices(noise: np.ndarray, rows: int, cells: Sequence[int]) -> tuple[NDArray[np.uint8], ...]:
    """The destinations of a lane: for each region ``[rows, cells]``, the token of the cell (row by row, 0 … 3).

    Args:
        noise: the lane's starting noise. It stands for the lane's seed: its hash keys a generator of its own, so
            that what is drawn here takes nothing from the noise of the rows.
        rows: evaluations; every one has its own destinations, so that no token is a destination in all of them.
        cells: of each region that merges, in order; one generator draws for all.
    """
    content = np.ascontiguousarray(noise).tobytes()
    digest = hashlib.sha256(content).digest()
    key = int.from_bytes(digest[:16], "little")

    generator = np.random.Generator(np.random.Philox(key=key))
    return tuple(generator.integers(0, 4, (rows, count), np.uint8) for count in cells)
