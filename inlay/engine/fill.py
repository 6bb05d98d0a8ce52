"""``masked_content="fill"``: the masked area smoothly filled from the colours around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["from_surroundings"]

Levels = NDArray[np.float32]

_MIDDLE = 127.5


def from_surroundings(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """``pixels`` with the masked ones filled in from the others by push-pull (Gortler et al. 1996, sec. 3.4).

    The known pixels are averaged over ever larger cells until every cell knows a colour, then the holes of
    each level are filled from the coarser one. Where everything is masked the result is mid-gray.

    Args:
        pixels: uint8 ``[h, w, 3]``.
        mask: bool ``[h, w]``, True = fill.
    """
    weight = (~mask).astype(np.float32)
    filled = _pull_and_push(pixels * weight[:, :, None], weight)
    return np.where(mask[:, :, None], np.rint(filled).clip(0, 255).astype(np.uint8), pixels)


def _pull_and_push(total: Levels, weight: Levels) -> Levels:
    """Colours ``[h, w, 3]`` everywhere, from weighted sums ``[h, w, 3]`` and weights ``[h, w]``."""
    known = weight > 0
    mean: Levels = np.divide(total, np.where(known, weight, 1)[:, :, None], dtype=np.float32)
    if known.all():
        return mean
    if weight.shape == (1, 1):
        return np.full_like(mean, _MIDDLE)
    coarse = _pull_and_push(_halved(total), _halved(weight))
    return np.where(known[:, :, None], mean, _enlarged(coarse, (weight.shape[1], weight.shape[0])))


def _halved(array: Levels) -> Levels:
    """Means of 2×2 cells; an odd last row or column counts with zero beside it."""
    height, width = array.shape[:2]
    widths = ((0, height % 2), (0, width % 2), (0, 0))[: array.ndim]
    even = np.pad(array, widths)
    mean: Levels = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / np.float32(4)
    return mean


def _enlarged(levels: Levels, size: tuple[int, int]) -> Levels:
    """``[h, w, 3]`` interpolated bilinearly to ``size`` (width, height)."""
    planes = (Image.fromarray(np.ascontiguousarray(levels[:, :, channel])) for channel in range(3))
    return np.dstack([np.asarray(plane.resize(size, Image.Resampling.BILINEAR)) for plane in planes])
