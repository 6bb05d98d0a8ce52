"""Pasting a generated area back: byte-exact outside the feather, wherever and at whatever size it lies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.canvas.boxes import Box, Size
from intarsia.canvas.mask import Feather, dilate

__all__ = ["Blend", "blend", "composite", "match_colors", "overlap", "paste_area", "resize"]

Pixels = NDArray[np.uint8]
Blend = Callable[[Pixels, Pixels, Pixels], Pixels]

# Gain limits of the color match: a seam is a shift of a few levels; more than this is another image.
_LEAST_GAIN, _MOST_GAIN = 0.8, 1.25
_LEAST_RING = 64

# Pixels that are blended at once: what is computed in between stays in the processor's cache, and is memory that the
# process has already, where that of whole images comes from the system anew each time (a third of the time at 512²).
_STRIP = 1 << 15


def resize(pixels: Pixels, size: Size) -> Pixels:
    """uint8 ``[H, W]`` or ``[H, W, 3]`` at ``size`` (width, height), by Lanczos where it has another."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def overlap(a: Box, b: Box) -> Box:
    """The common part of two boxes; without one, a box of no pixels."""
    x0, y0 = max(a[0], b[0]), max(a[1], b[1])
    x1, y1 = min(a[2], b[2]), min(a[3], b[3])
    return x0, y0, max(x0, x1), max(y0, y1)


def blend(base: Pixels, over: Pixels, weights: NDArray[np.uint8]) -> Pixels:
    """``base + (over - base) · weights / 255``, rounded: exactly ``base`` at 0, exactly ``over`` at 255.

    Args:
        base, over: uint8 ``[h, w]`` or ``[h, w, 3]``.
        weights: uint8 ``[h, w]``.
    """
    mixed = np.empty(base.shape, np.uint8)
    strip = max(1, _STRIP // max(1, base.shape[1]))
    for top in range(0, base.shape[0], strip):
        rows = slice(top, top + strip)
        mixed[rows] = _mixed(base[rows], over[rows], weights[rows])
    return mixed


def _mixed(base: Pixels, over: Pixels, weights: NDArray[np.uint8]) -> NDArray[np.uint16]:
    share = np.empty(base.shape, np.uint16)
    if base.ndim == 3:
        for channel in range(3):  # quicker than broadcasting along so short an axis
            share[:, :, channel] = weights
    else:
        share[:] = weights

    # 255 times the result, in integers: the same on every machine, and 255² + 127 just fits. Halves do not occur.
    mixed: NDArray[np.uint16] = over * share
    np.subtract(255, share, out=share)
    mixed += base * share
    mixed += 127
    mixed //= 255
    return mixed


def paste_area(base: Pixels, area: Pixels, crop: Box, feather: Feather, blend: Blend = blend) -> Pixels:
    """A copy of ``base`` with ``area``, which lies at ``crop`` in it, blended in by ``feather``.

    Args:
        blend: computes the same as :func:`blend`, on another device.
    """
    box = overlap(crop, feather.box)
    x0, y0, x1, y1 = box

    below = base[y0:y1, x0:x1]
    over = _part(area, crop, box)
    weights = _part(feather.weights, feather.box, box)

    out = base.copy()
    out[y0:y1, x0:x1] = blend(below, over, weights)
    return out


def composite(alpha: Pixels, crop: Box, feather: Feather) -> tuple[Feather, Pixels]:
    """An opaque layer of coverage ``feather``, cut to ``crop``, laid over an image that has this alpha.

    "Over" of Porter and Duff 1984, for colors that are not multiplied by alpha: the less there is to be seen
    below, the more of the color is the layer's; nothing at all of what is stored under a transparent pixel.

    Returns:
        The layer's share of the colors, which is ``feather`` itself where the image is opaque; and the
        alpha of both together.
    """
    box = overlap(crop, feather.box)
    x0, y0, x1, y1 = box
    weights = _part(feather.weights, feather.box, box)
    below = alpha[y0:y1, x0:x1]

    # 255 times the alpha of the layer, and of both together; their quotient is the layer's share, rounded.
    over = 255 * weights.astype(np.uint32)
    total = over + (255 - weights).astype(np.uint32) * below
    share = (255 * over + total // 2) // np.maximum(total, 1)

    out = alpha.copy()
    out[y0:y1, x0:x1] = blend(below, np.full_like(below, 255), weights)
    return Feather(box, share.astype(np.uint8)), out


def match_colors(area: Pixels, base: Pixels, mask: NDArray[np.bool_], ring: int) -> Pixels:
    """``area`` with the mean and spread, per channel, that ``base`` has in a ring around the mask.

    What the network drew *outside* the mask should look like the original there; the shift and gain that
    make it so are applied to all of ``area`` (Reinhard et al. 2001, in RGB). A ring of fewer than 64
    pixels, as with a mask that covers everything, says nothing: ``area`` is returned as it is.

    Args:
        area, base: uint8 ``[h, w, 3]`` at the same place and size.
        mask: bool ``[h, w]``; ring: its width in pixels.
    """
    around = dilate(mask, ring) & ~mask
    if np.count_nonzero(around) < _LEAST_RING:
        return area

    drawn = area[around].astype(np.float64)
    original = base[around].astype(np.float64)
    gain = (original.std(axis=0) + 1) / (drawn.std(axis=0) + 1)
    gain = gain.clip(_LEAST_GAIN, _MOST_GAIN)
    shift = original.mean(axis=0) - drawn.mean(axis=0) * gain

    # [256, 3]: what each level becomes, channel by channel.
    levels = np.arange(256)[:, None] * gain + shift
    table = np.rint(levels).clip(0, 255).astype(np.uint8)
    return np.dstack([table[area[:, :, channel], channel] for channel in range(3)])


def _part(array: Pixels, box: Box, part: Box) -> Pixels:
    """The pixels of ``part`` out of an array that lies at ``box``."""
    left, top = box[:2]
    x0, y0, x1, y1 = part
    return array[y0 - top : y1 - top, x0 - left : x1 - left]
