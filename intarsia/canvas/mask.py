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

    rows = ((np.arange(height) + 0.5) * mask_height / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * mask_width / width).astype(np.intp)
    fitted = restore_lost(mask[rows][:, columns], _covered(mask, size))
    return fitted, (f"mask_image was resized from {mask_width}x{mask_height} to the image's {width}x{height}",)


def _same_aspect(mask: Size, image: Size) -> bool:
    """Tools round or cut the shorter side to whole pixels: less than one pixel off is the same aspect ratio."""
    across = abs(mask[1] * image[0] / image[1] - mask[0])
    down = abs(mask[0] * image[1] / image[0] - mask[1])
    ratio = mask[0] * image[1] / (mask[1] * image[0])
    return min(across, down) < 1 and abs(ratio - 1) <= 0.02


def bounding_box(mask: Mask) -> Box | None:
    """``(x0, y0, x1, y1)``, ends excluded, of the True pixels; None where there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def grown(box: Box, by: int, size: Size) -> Box:
    """``box`` larger by ``by`` pixels on every side, inside ``size`` (width, height)."""
    x0, y0, x1, y1 = box
    return max(0, x0 - by), max(0, y0 - by), min(size[0], x1 + by), min(size[1], y1 + by)


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
    region, columns = out[y0:y1, x0:x1], distance.shape[1]
    furthest = min(radius, columns - 1)
    for shift in range(-furthest, furthest + 1):
        reach = math.isqrt(radius * radius - shift * shift)
        left, right = max(0, shift), max(0, -shift)
        source = distance[:, right : columns - left]
        region[:, left : columns - right] |= source <= reach
    return out


def _column_distance(mask: Mask, most: int) -> NDArray[np.uint16]:
    """Each pixel's distance to the mask within its column, at most ``most``; uint16 ``[h, w]``."""
    far = 1 << 20
    rows = np.arange(mask.shape[0], dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(mask, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, far)[::-1], axis=0)[::-1]
    distance: NDArray[np.uint16] = np.minimum(rows - above, below - rows).clip(max=most).astype(np.uint16)
    return distance


def feather_reach(blur: float) -> int:
    """How far from the mask, in pixels, a feather of standard deviation ``blur`` can end."""
    return math.ceil(4 * blur) + 2 if blur > 0 else 0


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

    height, width = mask.shape
    # A box of Pillow's reaches no further than its standard deviation, rounded up, and there are three of them.
    outer = grown(inner, 3 * math.ceil(blur), (width, height))
    x0, y0, x1, y1 = outer
    hard = mask[y0:y1, x0:x1].astype(np.uint8) * np.uint8(255)
    if blur <= 0:
        return Feather(outer, hard)

    soft = np.asarray(Image.fromarray(hard).filter(ImageFilter.GaussianBlur(blur)))
    weights = np.maximum(hard, np.minimum(soft, 127) * np.uint8(2))
    support = bounding_box(weights > 0)
    if support is None:  # not possible: the weights are 255 on the mask
        return Feather(outer, hard)

    left, top, right, bottom = support
    box = (x0 + left, y0 + top, x0 + right, y0 + bottom)
    return Feather(box, weights[top:bottom, left:right].copy())


def resize_mask(mask: Mask, size: Size) -> Mask:
    """``mask`` at ``size`` (width, height): on where at least half covered; no stroke is lost."""
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    levels = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    on = np.asarray(levels.resize(size, Image.Resampling.BILINEAR)) >= THRESHOLD
    return restore_lost(on, _covered(mask, size))


def restore_lost(on: Mask, covered: Mask) -> Mask:
    """Turn on the ``covered`` cells that are off and have no neighbor (of eight) that is on."""
    padded = np.pad(on, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    near = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    result: Mask = on | (covered & ~near)
    return result


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
    bands: Mask = reduce(np.bitwise_or, (mask[row::factor] for row in range(factor)))
    covered: Mask = reduce(np.bitwise_or, (bands[:, column::factor] for column in range(factor)))
    return restore_lost(mask[::factor, ::factor], covered).astype(np.float32)


def _covered(mask: Mask, size: Size) -> Mask:
    """Cells of a ``size`` (width, height) grid that hold at least one True pixel of ``mask``."""
    rows = np.arange(size[1]) * mask.shape[0] // size[1]
    columns = np.arange(size[0]) * mask.shape[1] // size[0]
    any_row: NDArray[Any] = np.logical_or.reduceat(mask, rows, axis=0)
    covered: Mask = np.logical_or.reduceat(any_row, columns, axis=1)
    return covered
