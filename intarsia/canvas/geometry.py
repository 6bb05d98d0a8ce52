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

__all__ = ["MULTIPLE", "follows_mask", "geometry"]

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
    if follows_mask(working, options):
        crop = _surroundings(working, mask_box, options)
    x0, y0, x1, y1 = crop

    resized, requested = _resized((x1 - x0, y1 - y0), working, options)
    width = _generation_side(resized[0], requested[0], options)
    height = _generation_side(resized[1], requested[1], options)

    x = _padding_before(width - resized[0])
    y = _padding_before(height - resized[1])
    return Geometry(
        width=width,
        height=height,
        source=source,
        working=working,
        crop=crop,
        resized=resized,
        offset=(x, y),
    )


def follows_mask(working: Size, options: CanvasOptions) -> bool:
    """Whether only the mask's surroundings are generated; ``"auto"`` does so where the whole would be scaled down."""
    if options.mask_padding != "auto":
        return options.mask_padding is not None
    if options.fixed_size:
        return False

    resized, _ = _resized(working, working, options)  # to whole pixels, as it would be generated
    return max(resized) < max(working)


def _resized(crop: Size, working: Size, options: CanvasOptions) -> tuple[Size, Size]:
    """The crop's size as generated, and the generation size that was requested (0 where none was)."""
    if options.fixed_size and not isinstance(options.mask_padding, int):
        return working, working

    crop_width, crop_height = crop
    requested = _requested_size(crop, options)
    if requested is None:
        requested = (0, 0)
        scale = _native_scale(crop, options)
    else:
        scale = min(requested[0] / crop_width, requested[1] / crop_height)

    width = _scaled(crop_width, scale, options)
    height = _scaled(crop_height, scale, options)
    return (width, height), requested


def _requested_size(crop: Size, options: CanvasOptions) -> Size | None:
    """The requested generation size, one missing side from the crop's aspect ratio; None where both are missing."""
    width, height = _sides(options)
    if width is None and height is None:
        return None

    crop_width, crop_height = crop
    if width is None:
        across = crop_width / crop_height
        width = _limited((height or 0) * across, options)
    if height is None:
        down = crop_height / crop_width
        height = _limited(width * down, options)
    return width, height


def _native_scale(crop: Size, options: CanvasOptions) -> float:
    """Generated pixels per cropped pixel where the request has no size: the model's native area decides."""
    width, height = crop
    crop_area = width * height
    native_area = options.native_size**2

    area = float(native_area)
    if not isinstance(options.mask_padding, int):
        least = native_area * _SMALLEST_AREA
        most = native_area * _LARGEST_AREA
        area = min(max(crop_area, least), most)

    to_area = math.sqrt(area / crop_area)
    to_largest_side = options.largest / max(width, height)
    return min(to_area, to_largest_side)


def _surroundings(working: Size, mask_box: Box, options: CanvasOptions) -> Box:
    """The part of the image generated in "only masked" mode.

    Context on every side: the longest side of the image / 16 or half the mask, whichever is more, at
    least ``mask_padding`` and what the feather needs; the whole at least the generation size where the
    image has it, of its aspect (square without one), and inside the image.
    """
    working_width, working_height = working
    left, top, right, bottom = mask_box
    mask_width = right - left
    mask_height = bottom - top
    least_context = options.mask_padding if isinstance(options.mask_padding, int) else 0
    context = max(
        math.ceil(max(working) / 16),
        math.ceil(max(mask_width, mask_height) / 2),
        least_context,
        feather_reach(options.mask_blur),
    )

    requested_width, requested_height = _sides(options)
    least_width = requested_width or requested_height or options.native_size
    least_height = requested_height or requested_width or options.native_size
    width = max(mask_width + 2 * context, least_width)
    height = max(mask_height + 2 * context, least_height)

    # The shorter of the two grows to the aspect ratio of the generation size.
    width = max(width, math.ceil(height * least_width / least_height))
    height = max(height, math.ceil(width * least_height / least_width))

    x0, x1 = _interval(left, right, width, working_width)
    y0, y1 = _interval(top, bottom, height, working_height)
    return x0, y0, x1, y1


def _interval(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """``length`` pixels around the middle of ``start … end``, moved and cut to lie in ``0 … limit``."""
    length = min(length, limit)
    centered = (start + end - length) // 2
    last_possible = limit - length
    first = min(max(0, centered), last_possible)
    return first, first + length


def _sides(options: CanvasOptions) -> tuple[int | None, int | None]:
    """The generation size of the request; a fixed size is the output's, not the generation's."""
    if options.fixed_size:
        return None, None
    return options.width, options.height


def _limited(side: float, options: CanvasOptions) -> int:
    whole = round(side)
    return min(max(whole, options.smallest), options.largest)


def _scaled(side: int, scale: float, options: CanvasOptions) -> int:
    scaled = round(side * scale)
    return min(max(1, scaled), options.largest)


def _generation_side(resized: int, requested: int, options: CanvasOptions) -> int:
    """The least multiple of 8 that holds what is resized and what was requested."""
    side = max(resized, requested)
    cells = -(-side // MULTIPLE)  # rounded up
    return max(cells * MULTIPLE, options.smallest)


def _padding_before(missing: int) -> int:
    """Padding left of or above the image: half of it, in whole latent cells, so that none is shared."""
    half = missing // 2
    cells = half // MULTIPLE
    return cells * MULTIPLE
