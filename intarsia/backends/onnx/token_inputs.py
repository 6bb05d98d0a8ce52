"""Inputs of the graph that merges tokens: indices of the tokens that may merge, as int64 arrays.

The graph finds similar tokens and merges them; which tokens may be what, and how many merge, follows from mask, size,
ratio and the lane's noise (:mod:`intarsia.backends.token_regions`). Weighted and mask-aware.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from intarsia.backends.token_regions import TokenRegion, draw_choices, find_regions
from intarsia.token_merging import TokenMerging

__all__ = ["graph_regions", "map_sizes", "token_inputs"]

Ints = NDArray[np.int64]


def map_sizes(levels: Sequence[int], height: int, width: int) -> list[tuple[int, int]]:
    """Heights and widths of feature maps: latents of that size, halved so many times."""
    sizes = [(height, width)]
    for _ in range(max(levels, default=0)):
        height = (height + 1) // 2
        width = (width + 1) // 2
        sizes.append((height, width))
    return [sizes[level] for level in levels]


def graph_regions(
    settings: TokenMerging, sizes: Sequence[tuple[int, int]], mask: np.ndarray
) -> tuple[TokenRegion, ...]:
    """A region for each resolution of the graph, or none at all where the mask leaves too little of all of them.

    The graph has inputs for every resolution: one that merges nothing has a region with nothing merged or protected.

    Args:
        mask: ``[h, w]`` of 0 and 1 at the latents' resolution, 1 is repainted.
    """
    found = find_regions(settings, sizes, mask)
    have_cells = all(height > 1 and width > 1 for height, width in sizes)
    if not found or not have_cells:
        return ()

    by_size = {(region.height, region.width): region for region in found}
    return tuple(by_size.get(size) or _without_merging(size) for size in sizes)


def _without_merging(size: tuple[int, int]) -> TokenRegion:
    height, width = size
    protected = np.zeros(height * width, np.bool_)
    return TokenRegion(height=height, width=width, merged=0, protected=protected)


def token_inputs(regions: Sequence[TokenRegion], noise: np.ndarray, rows: int) -> dict[str, Ints]:
    """Inputs of the graph, by name, for one lane (:class:`intarsia.export.token_matching.Tokens`).

    Args:
        noise: the lane's starting noise, which stands for its seed.
        rows: evaluations; one more row is before them, for the start.
    """
    cells = [region.cells for region in regions if region.merged]
    drawn = iter(draw_choices(noise, rows, cells))
    inputs: dict[str, Ints] = {}
    for level, region in enumerate(regions):
        choice = next(drawn) if region.merged else np.zeros((rows, region.cells), np.uint8)
        with_start = np.concatenate([choice[:1], choice])
        sources, destinations = _split(region, with_start.astype(np.int64))

        ranks = np.arange(sources.shape[1])
        inputs |= {
            f"sources_{level}": sources,
            f"destinations_{level}": destinations,
            f"kept_{level}": np.flatnonzero(region.protected),
            f"first_{level}": ranks[: region.merged],
            f"rest_{level}": ranks[region.merged :],
        }
    return inputs


def _split(region: TokenRegion, choice: Ints) -> tuple[Ints, Ints]:
    """Unprotected sources ``[rows, S]`` and destinations ``[rows, D]``; tokens outside whole cells are sources."""
    height, width = region.height, region.width
    rows = len(choice)
    cell_rows = height // 2 * 2
    cell_columns = width // 2 * 2
    grid = np.arange(height * width).reshape(height, width)

    # cells are protected as a whole
    corners = grid[:cell_rows:2, :cell_columns:2].ravel()
    is_free = ~region.protected[corners]
    free_corners = corners[is_free]

    # [rows, cells, 4]: the tokens of each cell, its destination first
    place_in_cell = (choice[:, is_free, None] + np.arange(4)) % 4
    row, column = place_in_cell // 2, place_in_cell % 2
    cells = free_corners[:, None] + row * width + column
    destinations = np.ascontiguousarray(cells[:, :, 0])
    sources = cells[:, :, 1:].reshape(rows, -1)

    right = grid[:cell_rows, cell_columns:].ravel()
    bottom = grid[cell_rows:].ravel()
    outside = np.concatenate([right, bottom])
    free_outside = outside[~region.protected[outside]]
    every_row = np.tile(free_outside, (rows, 1))
    return np.concatenate([sources, every_row], axis=1), destinations
