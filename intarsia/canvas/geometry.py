"""Where the generated area lies: crop → resize → pad to a multiple of 8, in plain numbers.

Nothing is ever stretched: one scale serves both directions (to the rounding of a pixel), and what is missing
to the generation size is padded. The exception is asked for by name (``fixed_size``): there the image
itself is first resized to the size that a documented request fixes.
"""

from __future__ import annotations

import math

from intarsia.canvas.boxes import Box, Geometry, Size
from intarsia.canvas.mask import feather_reach
from intarsia.canvas.options import CanvasOptions

__all__ = ["MULTIPLE", "geometry"]

MULTIPLE = 8
"""Generation sizes are multiples of this."""

# Without a size in the request an image is generated at its own size, as long as its area lies between a
# quarter and 2.25 times the model's native area: half to one and a half times each side. Models draw
# fragments below and repeat themselves above.
_SMALLEST_AREA, _LARGEST_AREA = 0.25, 2.25


def geometry(source: Size, working: Size, mask_box: Box, options: CanvasOptions) -> Geometry:
    """Lay out one request.

    Args:
        source, working: see :class:`Geometry`.
        mask_box: bounding box of the denoise mask in working pixels.
        options: the request's sizes and padding.
    """
    crop = (0, 0, *working)
    if options.mask_padding is not None:
        crop = _surroundings(working, mask_box, options)

    resized, requested = _resized((crop[2] - crop[0], crop[3] - crop[1]), working, options)
    width = _generation_side(resized[0], requested[0], options)
    height = _generation_side(resized[1], requested[1], options)
    return Geometry(
        width=width,
        height=height,
        source=source,
        working=working,
        crop=crop,
        resized=resized,
        offset=(_padding_before(width - resized[0]), _padding_before(height - resized[1])),
    )


def _resized(crop: Size, working: Size, options: CanvasOptions) -> tuple[Size, Size]:
    """The crop's size as generated, and the generation size that was requested (0 where none was)."""
    if options.fixed_size and options.mask_padding is None:
        return working, working

    requested = _requested_size(crop, options)
    if requested is None:
        scale, requested = _native_scale(crop, options), (0, 0)
    else:
        scale = min(requested[0] / crop[0], requested[1] / crop[1])
    return (_scaled(crop[0], scale, options), _scaled(crop[1], scale, options)), requested


def _requested_size(crop: Size, options: CanvasOptions) -> Size | None:
    """The requested generation size, one missing side from the crop's aspect ratio; None where both are missing."""
    width, height = _sides(options)
    if width is None and height is None:
        return None

    if width is None:
        width = _limited((height or 0) * (crop[0] / crop[1]), options)
    if height is None:
        height = _limited(width * (crop[1] / crop[0]), options)
    return width, height


def _native_scale(crop: Size, options: CanvasOptions) -> float:
    """Generated pixels per cropped pixel where the request has no size: the model's native area decides."""
    native_area, crop_area = options.native_size**2, crop[0] * crop[1]

    area = float(native_area)
    if options.mask_padding is None:
        area = min(max(crop_area, native_area * _SMALLEST_AREA), native_area * _LARGEST_AREA)
    return min(math.sqrt(area / crop_area), options.largest / max(crop))


def _surroundings(working: Size, mask_box: Box, options: CanvasOptions) -> Box:
    """The part of the image generated in "only masked" mode.

    Context on every side: the longest side of the image / 16 or half the mask, whichever is more, at
    least ``mask_padding`` and what the feather needs; the whole at least the generation size where the
    image has it, of its aspect (square without one), and inside the image.
    """
    left, top, right, bottom = mask_box
    context = max(
        math.ceil(max(working) / 16),
        math.ceil(max(right - left, bottom - top) / 2),
        options.mask_padding or 0,
        feather_reach(options.mask_blur),
    )

    width, height = _sides(options)
    least_width = width or height or options.native_size
    least_height = height or width or options.native_size

    wide = max(right - left + 2 * context, least_width)
    tall = max(bottom - top + 2 * context, least_height)
    wide = max(wide, math.ceil(tall * least_width / least_height))
    tall = max(tall, math.ceil(wide * least_height / least_width))

    x0, x1 = _interval(left, right, wide, working[0])
    y0, y1 = _interval(top, bottom, tall, working[1])
    return x0, y0, x1, y1


def _interval(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """``length`` pixels around the middle of ``start … end``, moved and cut to lie in ``0 … limit``."""
    length = min(length, limit)
    first = min(max(0, (start + end - length) // 2), limit - length)
    return first, first + length


def _sides(options: CanvasOptions) -> tuple[int | None, int | None]:
    """The generation size of the request; a fixed size is the output's, not the generation's."""
    if options.fixed_size:
        return None, None
    return options.width, options.height


def _limited(side: float, options: CanvasOptions) -> int:
    return min(max(round(side), options.smallest), options.largest)


def _scaled(side: int, scale: float, options: CanvasOptions) -> int:
    return min(max(1, round(side * scale)), options.largest)


def _generation_side(resized: int, requested: int, options: CanvasOptions) -> int:
    side = max(resized, requested)
    multiple = -(-side // MULTIPLE) * MULTIPLE
    return max(multiple, options.smallest)


def _padding_before(missing: int) -> int:
    """Padding left of or above the image: half of it, in whole latent cells, so that none is shared."""
    return missing // 2 // MULTIPLE * MULTIPLE
