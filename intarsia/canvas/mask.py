"""Masks as arrays: which pixels are repainted, how the repaint is blended, and which latents it covers.

Throughout, a mask is bool ``[H, W]``, True = repaint. A feather is the *composite* mask, uint8, 255 = take
the generated pixel; it is another thing than the *denoise* mask and only made from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from intarsia.canvas.boxes import Box, Size
from intarsia.canvas.mask_source import THRESHOLD
from intarsia.errors import RequestError

__all__ = [
    "Feather",
    "bounding_box",
    "dilate",
    "erode",
    "feather",
    "feather_reach",
    "fit_mask",
    "latent_mask",
    "resize_mask",
]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Feather:
    """Composite weights on the box ``(x0, y0, x1, y1)`` that holds all that are not zero.

    Attributes:
        weights: uint8 ``[y1-y0, x1-x0]``, 255 = the generated pixel, 0 = the input's.
    """

    box: Box
    weights: NDArray[np.uint8]


def fit_mask(mask: Mask, size: Size) -> tuple[Mask, tuple[str, ...]]:
    """``mask`` at ``size`` (width, height): itself, or sampled (nearest) where only the scale differs.

    Raises:
        RequestError: another aspect ratio; the message names both sizes.
    """
    width, height = size
    mask_height, mask_width = mask.shape
    mask_size = (mask_width, mask_height)
    if mask_size == size:
        return mask, ()
    if not _same_aspect(mask_size, size):
        raise RequestError(
            "mask_image",
            mask_size,
            message=f"mask_image must have the size of init_image or its aspect ratio: the mask is "
            f"{mask_width}x{mask_height}, the image {width}x{height}",
        )

    rows = _nearest(mask_height, height)
    columns = _nearest(mask_width, width)
    sampled = mask[rows][:, columns]
    fitted = restore_lost(sampled, _covered(mask, size))

    warning = f"mask_image was resized from {mask_width}x{mask_height} to the image's {width}x{height}"
    return fitted, (warning,)


def _nearest(length: int, resized: int) -> NDArray[np.intp]:
    """Which of ``length`` pixels lies under the center of each of ``resized``."""
    centers = np.arange(resized) + 0.5
    positions = centers * length / resized
    return positions.astype(np.intp)


def _same_aspect(mask: Size, image: Size) -> bool:
    """Tools round or cut the shorter side to whole pixels: less than one pixel off is the same aspect ratio."""
    width, height = image
    mask_width, mask_height = mask
    exact_width = mask_height * width / height
    exact_height = mask_width * height / width

    across = abs(exact_width - mask_width)
    down = abs(exact_height - mask_height)
    ratio = mask_width * height / (mask_height * width)
    return min(across, down) < 1 and abs(ratio - 1) <= 0.02


def bounding_box(mask: Mask) -> Box | None:
    """``(x0, y0, x1, y1)``, ends excluded, of the True pixels; None where there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None

    top, bottom = int(rows[0]), int(rows[-1])
    left, right = int(columns[0]), int(columns[-1])
    return left, top, right + 1, bottom + 1


def grown(box: Box, by: int, size: Size) -> Box:
    """``box`` larger by ``by`` pixels on every side, inside ``size`` (width, height)."""
    x0, y0, x1, y1 = box
    width, height = size
    return (
        max(0, x0 - by),
        max(0, y0 - by),
        min(width, x1 + by),
        min(height, y1 + by),
    )


def dilate(mask: Mask, radius: int) -> Mask:
    """``mask`` grown by a disc of ``radius`` pixels (every pixel within that Euclidean distance)."""
    box = bounding_box(mask) if radius > 0 else None
    if box is None:
        return mask
    height, width = mask.shape
    x0, y0, x1, y1 = grown(box, radius, (width, height))
    distance = _column_distance(mask[y0:y1, x0:x1], radius + 1)

    # One shifted comparison for each column of the disc: 2·radius + 1 passes over the region instead of
    # radius² over the image.
    out = mask.copy()
    region = out[y0:y1, x0:x1]
    columns = distance.shape[1]
    furthest = min(radius, columns - 1)

    for shift in range(-furthest, furthest + 1):
        reach = math.isqrt(radius**2 - shift**2)
        left = max(0, shift)
        right = max(0, -shift)
        source = distance[:, right : columns - left]
        region[:, left : columns - right] |= source <= reach
    return out


def erode(mask: Mask, radius: int) -> Mask:
    """``mask`` without every pixel within ``radius`` of an unmasked one; the image's border takes nothing away."""
    box = bounding_box(mask) if radius > 0 else None
    if box is None:
        return mask
    height, width = mask.shape
    x0, y0, x1, y1 = grown(box, 1, (width, height))  # of what is unmasked the nearest is at most one pixel outside

    out = mask.copy()
    out[y0:y1, x0:x1] = ~dilate(~mask[y0:y1, x0:x1], radius)
    return out


def _column_distance(mask: Mask, most: int) -> NDArray[np.uint16]:
    """Each pixel's distance to the mask within its column, at most ``most``; uint16 ``[h, w]``."""
    far = 1 << 20
    height = mask.shape[0]
    rows = np.arange(height, dtype=np.int32)[:, None]

    # The row of the nearest mask pixel above each pixel, itself included; and of the nearest below.
    above = np.maximum.accumulate(np.where(mask, rows, -far), axis=0)
    from_bottom = np.where(mask, rows, far)[::-1]
    below = np.minimum.accumulate(from_bottom, axis=0)[::-1]

    distance: NDArray[np.int32] = np.minimum(rows - above, below - rows)
    return distance.clip(max=most).astype(np.uint16)


def feather_reach(blur: float) -> int:
    """How far from the mask, in pixels, a feather of standard deviation ``blur`` can end."""
    if blur <= 0:
        return 0
    return math.ceil(4 * blur) + 2


def feather(mask: Mask, blur: float) -> Feather:
    """Composite weights: 255 on all of ``mask``, falling smoothly to 0 outside it.

    The fall is a Gaussian blur of standard deviation ``blur`` pixels, doubled and cut at 1, so that a
    straight edge has weight 1 on its mask side. A feather that also fell inside the mask would let what
    the caller means to remove shine through at the rim, and would hardly repaint a stroke thinner than itself.
    ``blur`` 0 is a hard edge. Pillow's Gaussian is three box blurs (Gwosdek et al. 2011): integer
    arithmetic, the same everywhere, and of finite support.
    """
    inner = bounding_box(mask)
    if inner is None:
        return Feather((0, 0, 0, 0), np.zeros((0, 0), np.uint8))

    # A box of Pillow's reaches no further than its standard deviation, rounded up, and there are three of them.
    reach = 3 * math.ceil(blur)
    height, width = mask.shape
    outer = grown(inner, reach, (width, height))

    x0, y0, x1, y1 = outer
    hard = mask[y0:y1, x0:x1].astype(np.uint8) * np.uint8(255)
    if blur <= 0:
        return Feather(outer, hard)

    blurred = Image.fromarray(hard).filter(ImageFilter.GaussianBlur(blur))
    doubled = np.minimum(np.asarray(blurred), 127) * np.uint8(2)
    weights = np.maximum(hard, doubled)
    support = bounding_box(weights > 0)
    if support is None:  # not possible: the weights are 255 on the mask
        return Feather(outer, hard)

    left, top, right, bottom = support
    box = (x0 + left, y0 + top, x0 + right, y0 + bottom)
    return Feather(box, weights[top:bottom, left:right].copy())


def resize_mask(mask: Mask, size: Size) -> Mask:
    """``mask`` at ``size`` (width, height): on where at least half covered; no stroke is lost."""
    height, width = mask.shape
    if (width, height) == size:
        return mask

    levels = mask.astype(np.uint8) * np.uint8(255)
    resized = Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR)
    half_covered = np.asarray(resized) >= THRESHOLD
    return restore_lost(half_covered, _covered(mask, size))


def restore_lost(on: Mask, covered: Mask) -> Mask:
    """Turn on the ``covered`` cells that are off and have no neighbor (of eight) that is on."""
    padded = np.pad(on, 1)
    in_column = padded[:-2] | padded[1:-1] | padded[2:]
    near = in_column[:, :-2] | in_column[:, 1:-1] | in_column[:, 2:]

    lost: Mask = covered & ~near
    return on | lost


def latent_mask(mask: Mask, factor: int = 8) -> NDArray[np.float32]:
    """The mask of the latents, float32 ``[h/factor, w/factor]``, 1 = repaint.

    The sampling of diffusers' inpainting pipelines (``interpolate``, nearest: the top left pixel of each
    cell) and one rule more: a stroke that falls between the sampled pixels is not lost, its cells are
    turned on. Shapes that the sampling meets are left as it has them.

    Raises:
        ValueError: the mask's sides are not multiples of ``factor``.
    """
    height, width = mask.shape
    if height % factor or width % factor:
        raise ValueError(f"mask sides must be multiples of {factor}, not {width}x{height}")

    # Plane by plane: twice as fast as reducing along axes this short.
    rows = (mask[row::factor] for row in range(factor))
    bands: Mask = reduce(np.bitwise_or, rows)
    columns = (bands[:, column::factor] for column in range(factor))
    covered: Mask = reduce(np.bitwise_or, columns)

    sampled = mask[::factor, ::factor]
    return restore_lost(sampled, covered).astype(np.float32)


def _covered(mask: Mask, size: Size) -> Mask:
    """Cells of a ``size`` (width, height) grid that hold at least one True pixel of ``mask``."""
    width, height = size
    mask_height, mask_width = mask.shape
    first_rows = np.arange(height) * mask_height // height
    first_columns = np.arange(width) * mask_width // width

    bands: NDArray[Any] = np.logical_or.reduceat(mask, first_rows, axis=0)
    covered: Mask = np.logical_or.reduceat(bands, first_columns, axis=1)
    return covered
