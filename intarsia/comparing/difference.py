"""How far an image is from the first of a comparison: PSNR and mean absolute difference where they were repainted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Painted", "difference"]


@dataclass(frozen=True, eq=False)
class Painted:
    """A finished image, uint8 ``[h, w, 3]``, and the pixels that may differ from the input, bool ``[h, w]``."""

    rgb: NDArray[np.uint8]
    touched: NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """Of two images, over the pixels that either of them repainted.

    Attributes:
        psnr: peak signal-to-noise ratio of 8-bit levels in dB; infinite where they are equal.
        mean_absolute: mean absolute difference of the three colors, in levels of 255.
    """

    psnr: float
    mean_absolute: float


def difference(one: Painted, other: Painted) -> Difference | None:
    """The difference of two images; None where their sizes differ, or nothing was repainted."""
    if one.rgb.shape != other.rgb.shape:
        return None
    where = one.touched | other.touched
    if not where.any():
        return None

    distances = one.rgb[where].astype(np.float64) - other.rgb[where]
    mean_square = float(np.mean(distances**2))
    psnr = math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)
    return Difference(psnr, float(np.mean(np.abs(distances))))
