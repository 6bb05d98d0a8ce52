"""Colors for pixels that have none of their own to show: those to be made anew, and transparent ones.

What is stored under a transparent pixel is no content (black in one editor, white in another, or what was
erased), so the network is shown the visible colors around it instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["FAINT", "from_surroundings", "hidden_pixels", "opaque"]

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Levels = NDArray[np.float32]

FAINT = 16
"""A pixel whose alpha is below this, a sixteenth of opaque, is hidden.

Editors that keep colors multiplied by alpha leave less than 16 levels of each color there: noise, to the eye nothing.
"""

_MIDDLE = 127.5

# Colors for hidden pixels are spread on a grid of at most so many cells a side: what is generated is rarely finer.
_FINEST = 1024


def hidden_pixels(alpha: Pixels | None) -> Mask | None:
    """bool ``[H, W]``, True where nothing is to be seen; None where there is no such pixel."""
    if alpha is None or alpha.min() >= FAINT:
        return None
    return alpha < FAINT


def opaque(rgb: Pixels, alpha: Pixels | None, masked: Mask | None = None) -> Pixels:
    """The image without transparency: visible pixels as stored, hidden ones filled from the visible around them.

    Visible pixels count with their alpha as weight. The result does not depend on what is stored in hidden
    pixels; where all are hidden it is mid-gray.

    Args:
        rgb: uint8 ``[H, W, 3]``.
        alpha: uint8 ``[H, W]``, or None where all is opaque.
        masked: bool ``[H, W]``: pixels whose colors are to go, spread only where nothing else is visible.
    """
    hidden = hidden_pixels(alpha)
    if alpha is None or hidden is None:
        return rgb

    weight = np.where(hidden, np.uint8(0), alpha)
    if masked is not None:
        unmasked = np.where(masked, np.uint8(0), weight)
        if unmasked.any():
            weight = unmasked

    filled = _spread(rgb, weight)
    return np.where(hidden[:, :, None], filled, rgb)


def from_surroundings(pixels: Pixels, mask: Mask) -> Pixels:
    """``pixels`` with the masked ones filled in from the others; where everything is masked, mid-gray.

    Args:
        pixels: uint8 ``[h, w, 3]``.
        mask: bool ``[h, w]``, True = fill.
    """
    weight = (~mask).astype(np.float32)
    total = pixels * weight[:, :, None]
    filled = _rounded(_pull_and_push(total, weight))
    return np.where(mask[:, :, None], filled, pixels)


def _spread(pixels: Pixels, weight: Pixels) -> Pixels:
    """Colors everywhere, by push-pull; of a large image on cells of some pixels a side."""
    height, width = weight.shape
    across = _ceiling(width, _FINEST)
    down = _ceiling(height, _FINEST)
    total, share = _cells(pixels, weight, across, down)
    colors = _rounded(_pull_and_push(total, share))
    if across == down == 1:
        return colors

    covered = (0, 0, width / across, height / down)  # the last cell may reach over the edge
    cells = Image.fromarray(colors)
    enlarged = cells.resize((width, height), Image.Resampling.BILINEAR, box=covered)
    return np.asarray(enlarged)


def _cells(pixels: Pixels, weight: Pixels, across: int, down: int) -> tuple[Levels, Levels]:
    """Weighted sums ``[h, w, 3]`` and weights ``[h, w]`` of cells of ``across`` × ``down`` pixels, added up exactly."""
    height, width = weight.shape
    cell_rows = _ceiling(height, down)
    starts = np.arange(0, width, across)
    total = np.empty((cell_rows, starts.size, 3), np.float32)
    share = np.empty((cell_rows, starts.size), np.float32)

    for row in range(cell_rows):  # one by one: the pixels of a large image are never all floats
        first = row * down
        rows = slice(first, first + down)
        weights = weight[rows].astype(np.int64)
        weighted = pixels[rows] * weights[:, :, None]

        share[row] = np.add.reduceat(weights.sum(axis=0), starts)
        total[row] = np.add.reduceat(weighted.sum(axis=0), starts, axis=0)
    return total, share


def _ceiling(length: int, divisor: int) -> int:
    return -(-length // divisor)


def _pull_and_push(total: Levels, weight: Levels) -> Levels:
    """Colors ``[h, w, 3]`` everywhere, from weighted sums ``[h, w, 3]`` and weights ``[h, w]``.

    Push-pull (Gortler et al. 1996, sec. 3.4): the known pixels are averaged over ever larger cells until
    every cell has a color, then the holes of each level are filled from the coarser one.
    """
    known = weight > 0
    divisor = np.where(known, weight, 1)
    mean: Levels = np.divide(total, divisor[:, :, None], dtype=np.float32)
    if known.all():
        return mean
    if weight.shape == (1, 1):
        return np.full_like(mean, _MIDDLE)

    height, width = weight.shape
    coarse = _pull_and_push(_halved(total), _halved(weight))
    filled = _enlarged(coarse, (width, height))
    return np.where(known[:, :, None], mean, filled)


def _halved(array: Levels) -> Levels:
    """Means of 2×2 cells; an odd last row or column counts with zero beside it."""
    height, width, *_ = array.shape
    widths = [(0, height % 2), (0, width % 2)]
    if array.ndim == 3:
        widths.append((0, 0))
    even = np.pad(array, widths)

    upper, lower = even[::2], even[1::2]
    total: Levels = upper[:, ::2] + lower[:, ::2] + upper[:, 1::2] + lower[:, 1::2]
    return total / np.float32(4)


def _enlarged(levels: Levels, size: tuple[int, int]) -> Levels:
    """``[h, w, 3]`` interpolated bilinearly to ``size`` (width, height)."""
    planes = []
    for channel in range(3):
        samples = np.ascontiguousarray(levels[:, :, channel])
        plane = Image.fromarray(samples).resize(size, Image.Resampling.BILINEAR)
        planes.append(np.asarray(plane))
    return np.dstack(planes)


def _rounded(levels: Levels) -> Pixels:
    whole = np.rint(levels)
    return whole.clip(0, 255).astype(np.uint8)
