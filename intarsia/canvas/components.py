"""Connected areas of a mask: holes filled, specks dropped.

Areas are found as runs of rows (He, Chao & Suzuki 2008, in the order of numpy's operations): each row's runs are
nodes, runs of neighboring rows that touch are edges, and the least number of a run in reach is an area's label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["drop_specks", "fill_holes", "largest_area"]

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Runs:
    """The horizontal runs of a mask, row by row from the left.

    Attributes:
        rows, starts, ends: of each run; ends are excluded.
        areas: of each run, the least number of a run that it hangs together with.
    """

    rows: Numbers
    starts: Numbers
    ends: Numbers
    areas: Numbers

    @property
    def sizes(self) -> Numbers:
        """Pixels of the area of each run."""
        lengths = self.ends - self.starts
        pixels = np.bincount(self.areas, weights=lengths, minlength=lengths.size)
        return pixels.astype(np.int64)[self.areas]


def fill_holes(mask: Mask) -> Mask:
    """``mask`` with what it surrounds: unmasked areas, connected by edges, that do not reach the image's border."""
    height, width = mask.shape
    runs = _runs_of(~mask, diagonal=False)
    at_border = (runs.rows == 0) | (runs.rows == height - 1) | (runs.starts == 0) | (runs.ends == width)

    is_open = np.zeros(runs.areas.size, np.bool_)
    is_open[runs.areas[at_border]] = True
    return mask | _drawn(mask.shape, runs, ~is_open[runs.areas])


def drop_specks(mask: Mask, least: int) -> Mask:
    """``mask`` without its areas, connected by edges or corners, of fewer than ``least`` pixels."""
    runs = _runs_of(mask, diagonal=True)
    return _drawn(mask.shape, runs, runs.sizes >= least)


def largest_area(mask: Mask) -> int:
    """Pixels of the largest connected area of ``mask``; 0 without one."""
    return int(_runs_of(mask, diagonal=True).sizes.max(initial=0))


def _runs_of(mask: Mask, *, diagonal: bool) -> _Runs:
    height, width = mask.shape
    framed = np.zeros((height, width + 2), np.int8)
    framed[:, 1:-1] = mask
    steps = np.diff(framed, axis=1)

    rows, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    above, below = _touching(rows, starts, ends, reach=int(diagonal), width=width)
    return _Runs(rows=rows, starts=starts, ends=ends, areas=_least_labels(rows.size, above, below))


def _touching(rows: Numbers, starts: Numbers, ends: Numbers, *, reach: int, width: int) -> tuple[Numbers, Numbers]:
    """Pairs of runs in neighboring rows that share a column, or with ``reach`` 1 a corner."""
    # Positions in one order for the whole image; rows are so far apart that no run reaches into the next.
    stride = width + 2
    first_positions = rows * stride + starts
    last_positions = rows * stride + ends

    # Of the row below, the runs from the first that ends behind this one's start to the last that starts before
    # its end.
    first = np.searchsorted(last_positions, first_positions + stride - reach, side="right")
    last = np.searchsorted(first_positions, last_positions + stride + reach, side="left")
    counts = np.maximum(last - first, 0)

    above = np.repeat(np.arange(rows.size), counts)
    within = np.arange(above.size) - np.repeat(np.cumsum(counts) - counts, counts)
    below = np.repeat(first, counts) + within
    return above, below


def _least_labels(count: int, above: Numbers, below: Numbers) -> Numbers:
    """For each of ``count`` nodes the least number of a node that edges lead to."""
    labels = np.arange(count)
    while True:
        one, other = labels[above], labels[below]
        low, high = np.minimum(one, other), np.maximum(one, other)
        if np.array_equal(low, high):
            return labels

        # Roots take the least label beside them, then every node that of its root.
        np.minimum.at(labels, high, low)
        while True:
            shorter = labels[labels]
            if np.array_equal(shorter, labels):
                break
            labels = shorter


def _drawn(shape: tuple[int, ...], runs: _Runs, kept: Mask) -> Mask:
    """A mask of the runs that are ``kept``."""
    height, width = shape
    steps = np.zeros((height, width + 1), np.int8)
    steps[runs.rows[kept], runs.starts[kept]] = 1
    steps[runs.rows[kept], runs.ends[kept]] -= 1
    drawn: Mask = np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1] > 0
    return drawn
