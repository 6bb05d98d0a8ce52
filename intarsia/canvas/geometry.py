"""Where the generated area lies: crop → resize → pad to a multiple of 8, in plain numbers.

Nothing is ever stretched: one scale serves both directions (to the rounding of a pixel), and what is missing
to the generation size is padded. The exception is asked for by name (``fixed_size``): there the image
itself is first resized to the size that a documented request fixes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from intarsia.canvas.boxes import Geometry
from intarsia.canvas.mask import Box, feather_reach
from intarsia.canvas.mask_source import MaskSource
from intarsia.errors import RequestError

__all__ = ["MULTIPLE", "CanvasOptions", "Geometry", "geometry"]

MULTIPLE = 8
"""Generation sizes are multiples of this."""

# Without a size in the request an image is generated at its own size, as long as its area lies between a
# quarter and 2.25 times the model's native area: half to one and a half times each side. Models draw
# fragments below and repeat themselves above.
_SMALLEST_AREA, _LARGEST_AREA = 0.25, 2.25

Size = tuple[int, int]
MaskedContent = Literal["original", "fill", "noise", "blank"]


@dataclass(frozen=True)
class CanvasOptions:
    """What a request says about image and mask; see ``canvas`` for what each does.

    Attributes:
        width, height: generation size in pixels; None follows the image.
        fixed_size: the output is exactly ``width`` × ``height`` and the image is resized to it.
        mask_source, invert_mask: how the mask is read.
        mask_dilate: growth of the mask, pixels of the original.
        mask_blur: standard deviation of the feather, pixels of the output; 0 is a hard edge.
        mask_padding: least context around the mask, pixels; set, only the mask's surroundings are generated.
        masked_content: what stands under the mask before denoising.
        color_match: match the generated colors to those around the mask.
        native_size: side of the square the model was trained on.
        smallest, largest: limits of a side of the generation size.

    Raises:
        RequestError: a value outside its limits, by name.
    """

    width: int | None = None
    height: int | None = None
    fixed_size: bool = False
    mask_source: MaskSource = "auto"
    invert_mask: bool = False
    mask_dilate: int = 0
    mask_blur: float = 4.0
    mask_padding: int | None = None
    masked_content: MaskedContent = "original"
    color_match: bool = False
    native_size: int = 512
    smallest: int = 64
    largest: int = 2048

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value is None and self.fixed_size:
                raise RequestError(name, value, "given where the output's size is fixed")
            if value is not None and not self.smallest <= value <= self.largest:
                raise RequestError(name, value, f"between {self.smallest} and {self.largest}")
        _between("mask_dilate", self.mask_dilate, 512)
        _between("mask_blur", self.mask_blur, 256)
        _between("mask_padding", self.mask_padding or 0, 65536)
        _one_of("mask_source", self.mask_source, ("auto", "luma", "alpha"))
        _one_of("masked_content", self.masked_content, ("original", "fill", "noise", "blank"))


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
    crop_size = (crop[2] - crop[0], crop[3] - crop[1])
    if options.fixed_size and options.mask_padding is None:
        resized = room = working
    else:
        scale, room = _scale(crop_size, options)
        resized = (_scaled(crop_size[0], scale, options), _scaled(crop_size[1], scale, options))
    width, height = (max(_up(max(r, a)), options.smallest) for r, a in zip(resized, room, strict=True))
    offset = (_before(width - resized[0]), _before(height - resized[1]))
    return Geometry(width, height, source, working, crop, resized, offset)


def _scale(crop: Size, options: CanvasOptions) -> tuple[float, Size]:
    """Generated pixels per cropped pixel, and the size that was asked for (0 where it was not)."""
    width, height = _asked(options)
    if width is None and height is None:
        native, area = options.native_size**2, crop[0] * crop[1]
        if options.mask_padding is not None:
            goal = float(native)
        else:
            goal = min(max(area, native * _SMALLEST_AREA), native * _LARGEST_AREA)
        return min(math.sqrt(goal / area), options.largest / max(crop)), (0, 0)
    room = (
        width or _inside(height, crop[0] / crop[1], options),
        height or _inside(width, crop[1] / crop[0], options),
    )
    return min(room[0] / crop[0], room[1] / crop[1]), room


def _surroundings(working: Size, box: Box, options: CanvasOptions) -> Box:
    """The part of the image generated in "only masked" mode.

    Context on every side: the longest side of the image / 16 or half the mask, whichever is more, at
    least ``mask_padding`` and what the feather needs; the whole at least the generation size where the
    image has it, of its aspect (square without one), and inside the image.
    """
    longest_mask = max(box[2] - box[0], box[3] - box[1])
    margin = max(
        math.ceil(max(working) / 16),
        math.ceil(longest_mask / 2),
        options.mask_padding or 0,
        feather_reach(options.mask_blur),
    )
    width, height = _asked(options)
    aim = (width or height or options.native_size, height or width or options.native_size)
    wide = max(box[2] - box[0] + 2 * margin, aim[0])
    tall = max(box[3] - box[1] + 2 * margin, aim[1])
    wide = max(wide, math.ceil(tall * aim[0] / aim[1]))
    tall = max(tall, math.ceil(wide * aim[1] / aim[0]))
    x0, x1 = _interval(box[0], box[2], wide, working[0])
    y0, y1 = _interval(box[1], box[3], tall, working[1])
    return x0, y0, x1, y1


def _interval(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """``length`` pixels around the middle of ``start … end``, moved and cut to lie in ``0 … limit``."""
    length = min(length, limit)
    first = min(max(0, (start + end - length) // 2), limit - length)
    return first, first + length


def _asked(options: CanvasOptions) -> tuple[int | None, int | None]:
    """The generation size of the request; a fixed size is the output's, not the generation's."""
    return (None, None) if options.fixed_size else (options.width, options.height)


def _inside(side: int | None, ratio: float, options: CanvasOptions) -> int:
    """The side that follows from the other one and the aspect ratio, within the limits."""
    return min(max(round((side or 0) * ratio), options.smallest), options.largest)


def _scaled(side: int, scale: float, options: CanvasOptions) -> int:
    return min(max(1, round(side * scale)), options.largest)


def _up(side: int) -> int:
    return -(-side // MULTIPLE) * MULTIPLE


def _before(missing: int) -> int:
    """Padding left of or above the image: half of it, in whole latent cells, so that none is shared."""
    return missing // 2 // MULTIPLE * MULTIPLE


def _between(name: str, value: float, most: int) -> None:
    if not (math.isfinite(value) and 0 <= value <= most):
        raise RequestError(name, value, f"between 0 and {most}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RequestError(name, value, "one of " + ", ".join(allowed))
