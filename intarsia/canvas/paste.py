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
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    image = Image.fromarray(pixels)
    resized = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(resized)


def overlap(a: Box, b: Box) -> Box:
    """The common part of two boxes; without one, a box of no pixels."""
    left_a, top_a, right_a, bottom_a = a
    left_b, top_b, right_b, bottom_b = b
    left = max(left_a, left_b)
    top = max(top_a, top_b)
    right = min(right_a, right_b)
    bottom = min(bottom_a, bottom_b)
    return left, top, max(left, right), max(top, bottom)


def blend(base: Pixels, over: Pixels, weights: NDArray[np.uint8]) -> Pixels:
    """``base + (over - base) · weights / 255``, rounded: exactly ``base`` at 0, exactly ``over`` at 255.

    Args:
        base, over: uint8 ``[h, w]`` or ``[h, w, 3]``.
        weights: uint8 ``[h, w]``.
    """
    height, width = base.shape[:2]
    rows_at_once = max(1, _STRIP // max(1, width))

    mixed = np.empty(base.shape, np.uint8)
    for top in range(0, height, rows_at_once):
        rows = slice(top, top + rows_at_once)
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
    inside = (slice(y0, y1), slice(x0, x1))

    over = _part(area, crop, box)
    weights = _part(feather.weights, feather.box, box)

    out = base.copy()
    out[inside] = blend(base[inside], over, weights)
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
    inside = (slice(y0, y1), slice(x0, x1))

    weights = _part(feather.weights, feather.box, box)
    below = alpha[inside]

    # 255 times the alpha of the layer, and of both together; their quotient is the layer's share, rounded.
    over = 255 * weights.astype(np.uint32)
    uncovered = (255 - weights).astype(np.uint32)
    total = over + uncovered * below
    share = (255 * over + total // 2) // np.maximum(total, 1)

    out = alpha.copy()
    opaque = np.full_like(below, 255)
    out[inside] = blend(below, opaque, weights)
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

    mean, spread = _mean_and_spread(area[around])
    wanted_mean, wanted_spread = _mean_and_spread(base[around])
    gain = (wanted_spread + 1) / (spread + 1)
    gain = gain.clip(_LEAST_GAIN, _MOST_GAIN)
    shift = wanted_mean - mean * gain

    # [256, 3]: what each level becomes, channel by channel.
    levels = np.arange(256)[:, None]
    matched = levels * gain + shift
    table = np.rint(matched).clip(0, 255).astype(np.uint8)

    red, green, blue = np.moveaxis(area, 2, 0)
    return np.dstack([table[red, 0], table[green, 1], table[blue, 2]])


def _mean_and_spread(pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation ``[3]`` of colors ``[n, 3]``."""
    colors = pixels.astype(np.float64)
    return colors.mean(axis=0), colors.std(axis=0)


def _part(array: Pixels, box: Box, part: Box) -> Pixels:
    """The pixels of ``part`` out of an array that lies at ``box``."""
    left, top, _, _ = box
    x0, y0, x1, y1 = part
    rows = slice(y0 - top, y1 - top)
    columns = slice(x0 - left, x1 - left)
    return array[rows, columns]
