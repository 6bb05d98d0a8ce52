"""Image and mask the wrong way round: what each looks like, and a warning where it is the other one.

Only a warning: a soft mask may have every gray, and line art is black and white, so that nothing is certain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intarsia.images.rgb_image import RgbImage

__all__ = ["about_swapped"]

Levels = NDArray[np.uint8]

# Pixels this near to black or white are taken for them: JPEG leaves such noise around edges.
_NEAR = 32

# Least share of black and white pixels of an image that looks like a mask; of others, of one that looks like a
# photograph, in which in addition no few tones make up more than half: a mask of plain gray is no photograph.
_OF_A_MASK, _OF_A_PHOTOGRAPH = 0.98, 0.5
_TONES = 8
_COMMONEST = 2

# Least mean second difference of neighbors, in levels: a mask that is soft everywhere has many tones, but is smooth.
_ROUGH = 1.5

# Rows and columns that are looked at.
_SAMPLES = 512


def about_swapped(image: RgbImage, mask: RgbImage) -> tuple[str, ...]:
    """A warning where ``mask`` looks like a photograph; another one where ``image`` looks like a mask, too."""
    if mask.alpha is not None and mask.alpha.min() < 255:
        return ()  # read by its transparency it may be a photograph: an erased part is the mask

    levels = _sampled(mask.gray)
    between = 1 - _near_ends(levels)
    if between < _OF_A_PHOTOGRAPH or not _has_many_tones(levels) or _roughness(levels) < _ROUGH:
        return ()

    extremes = _near_ends(_sampled(image.gray))
    if extremes >= _OF_A_MASK and _is_gray(_sampled(image.rgb)):
        return (
            f"image and mask look swapped: {extremes:.0%} of init_image is black or white, as of a mask, "
            f"and {between:.0%} of mask_image is neither, as of a photograph",
        )
    return (f"mask_image looks like a photograph: {between:.0%} of it is neither black nor white",)


def _sampled(pixels: Levels) -> Levels:
    """Every so many rows and columns of ``[H, W]`` or ``[H, W, 3]``."""
    height, width = pixels.shape[:2]
    return pixels[:: -(-height // _SAMPLES), :: -(-width // _SAMPLES)]


def _near_ends(levels: Levels) -> float:
    """Share of the pixels that are black or white."""
    is_near = (levels < _NEAR) | (levels > 255 - _NEAR)
    return float(is_near.mean())


def _has_many_tones(levels: Levels) -> bool:
    tones = np.bincount(levels.ravel() // _TONES)
    return bool(2 * np.sort(tones)[-_COMMONEST:].sum() < levels.size)


def _roughness(levels: Levels) -> float:
    if min(levels.shape) < 3:
        return 0.0
    signed = levels.astype(np.int16)
    across = np.diff(signed, n=2, axis=1)
    down = np.diff(signed, n=2, axis=0)
    return float(np.abs(across).mean() + np.abs(down).mean()) / 2


def _is_gray(colors: Levels) -> bool:
    spread = colors.max(axis=2) - colors.min(axis=2)
    return float((spread < _NEAR).mean()) >= _OF_A_MASK
