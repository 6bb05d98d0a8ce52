"""Token merging: what the host tells the graph, by numpy (:mod:`intarsia.models.merging` says what it is, by torch).

Weighted and mask-aware. The graph finds similar tokens and merges them; which tokens may be what, and how many merge,
follows from mask, size, ratio and the lane's noise. A test holds this to the torch backend's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Level", "find_levels", "level_tokens", "map_sizes"]

# As in intarsia.models.merging.
_BUCKETS, _NEAR = 16, 1

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Level:
    """What a mask lets merge at one resolution.

    Attributes:
        height, width: of the feature map, in tokens.
        merged: tokens that disappear; where there are none, nothing is protected.
        protected: ``[height * width]``, True is left as it is.
    """

    height: int
    width: int
    merged: int
    protected: Flags

    @property
    def cells(self) -> int:
        return (self.height // 2) * (self.width // 2)


def map_sizes(levels: Sequence[int], height: int, width: int) -> list[tuple[int, int]]:
    """Heights and widths of feature maps: latents of that size, halved so many times."""
    made = [(height, width)]
    for _ in range(max(levels, default=0)):
        made.append(((made[-1][0] + 1) // 2, (made[-1][1] + 1) // 2))
    return [made[level] for level in levels]


def find_levels(ratio: float, sizes: Sequence[tuple[int, int]], mask: np.ndarray) -> tuple[Level, ...]:
    """One for each size, or none where the mask leaves too little of all of them.

    Args:
        mask: ``[h, w]`` of 0 and 1 at the latents' resolution, 1 is repainted.
    """
    found = tuple(_level(ratio, height, width, mask > 0) for height, width in sizes)
    usable = any(level.merged for level in found) and all(level.cells for level in found)
    return found if usable else ()


def _level(ratio: float, height: int, width: int, mask: Flags) -> Level:
    protected = _protected(mask, height, width)
    whole = protected[: height // 2 * 2, : width // 2 * 2]
    step = max(1, height * width // _BUCKETS)
    merged = 0 if whole.all() else int(int((~protected).sum()) * ratio) // step * step
    return Level(height, width, merged, protected.ravel() if merged else np.zeros(height * width, np.bool_))


def _protected(mask: Flags, height: int, width: int) -> Flags:
    """Tokens of every cell that the mask, or a token near it, reaches."""
    inside = _pooled(_pooled(mask, height).T, width).T
    wide = np.pad(inside, _NEAR)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (2 * _NEAR + 1, 2 * _NEAR + 1))
    near: Flags = np.asarray(windows.any(axis=(2, 3)))
    rows, columns = height // 2, width // 2
    if rows and columns:
        cells = near[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).any(axis=(1, 3))
        near[: 2 * rows, : 2 * columns] = cells.repeat(2, 0).repeat(2, 1)
    return near


def _pooled(mask: Flags, count: int) -> Flags:
    """``count`` rows, each of all that reach into it."""
    size = len(mask)
    return np.stack([mask[i * size // count : -(-(i + 1) * size // count)].any(axis=0) for i in range(count)])


def level_tokens(levels: Sequence[Level], noise: np.ndarray, rows: int) -> dict[str, Ints]:
    """Inputs of the graph, by name, for one lane (:class:`intarsia.export.merging.Tokens`).

    Args:
        noise: the lane's starting noise, which stands for its seed.
        rows: evaluations; one more row is before them, for the start.
    """
    made: dict[str, Ints] = {}
    for place, (level, choice) in enumerate(zip(levels, _choices(levels, noise, rows), strict=True)):
        sources, destinations = _split(level, np.concatenate([choice[:1], choice]))
        counts = np.arange(sources.shape[1])
        made |= {
            f"sources_{place}": sources,
            f"destinations_{place}": destinations,
            f"kept_{place}": np.flatnonzero(level.protected),
            f"first_{place}": counts[: level.merged],
            f"rest_{place}": counts[level.merged :],
        }
    return made


def _choices(levels: Sequence[Level], noise: np.ndarray, rows: int) -> Iterator[Ints]:
    """For each level ``[rows, cells]``, the destination of each cell (row by row, 0 … 3)."""
    key = int.from_bytes(hashlib.sha256(np.ascontiguousarray(noise).tobytes()).digest()[:16], "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    for level in levels:
        shape = (rows, level.cells)
        yield (generator.integers(0, 4, shape, np.uint8) if level.merged else np.zeros(shape)).astype(np.int64)


def _split(level: Level, choice: Ints) -> tuple[Ints, Ints]:
    """Unprotected sources ``[rows, S]`` and destinations ``[rows, D]``; what no whole cell holds is a source."""
    height, width = level.height, level.width
    rows, columns = height // 2, width // 2
    grid = np.arange(height * width).reshape(height, width)
    corner = grid[: 2 * rows : 2, : 2 * columns : 2].ravel()
    free = corner[~level.protected[corner]]  # cells are protected as a whole
    turn = (choice[:, ~level.protected[corner], None] + np.arange(4)) % 4
    cells = free[:, None] + turn // 2 * width + turn % 2
    edge = np.concatenate([grid[: 2 * rows, 2 * columns :].ravel(), grid[2 * rows :].ravel()])
    edge = edge[~level.protected[edge]]
    inner = cells[:, :, 1:].reshape(len(choice), -1)
    return np.concatenate([inner, np.tile(edge, (len(choice), 1))], axis=1), np.ascontiguousarray(cells[:, :, 0])
