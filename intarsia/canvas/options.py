"""What a request says about image and mask: the options of a canvas, and what each may be."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from intarsia.errors import RequestError

__all__ = [
    "LARGEST_OVERLAP",
    "LARGEST_SIDE",
    "CanvasOptions",
    "Extension",
    "MaskPadding",
    "MaskSource",
    "MaskedContent",
    "MinArea",
    "PER_CENT",
    "pixels_of",
]

MaskSource = Literal["auto", "luma", "alpha"]
"""How a mask file is read: by its brightness, by its transparency, or by whichever it was drawn with."""

MaskedContent = Literal["original", "fill", "noise", "blank"]
"""What is under the mask before denoising."""

MaskPadding = Literal["auto"] | int | None
"""How much around the mask is generated: so many pixels, the whole image (None), or what its size calls for."""

MinArea = int | str
"""Pixels, or per cent of the image's: ``"0.5%"``."""

PER_CENT = r"^(100|[0-9]{1,2}(\.[0-9]{1,6})?)%$"
"""What a share of the image looks like."""

LARGEST_SIDE, LARGEST_OVERLAP = 2048, 256
"""Limits of an extension, in pixels."""

# Limits, in pixels.
_MOST_DILATE, _MOST_BLUR, _MOST_PADDING = 512, 256, 65536


@dataclass(frozen=True, kw_only=True)
class Extension:
    """By how many pixels an image is enlarged on each side.

    Attributes:
        overlap: pixels of the image beside the new area that are repainted with it, so that the two join.

    Raises:
        RequestError: a value outside its limits, or no side at all.
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    overlap: int = 16

    def __post_init__(self) -> None:
        sides = (self.left, self.top, self.right, self.bottom)
        if min(sides) < 0 or not 0 < max(sides) <= LARGEST_SIDE:
            raise RequestError("extend", sides, f"between 0 and {LARGEST_SIDE} on each side, and above 0 on one")
        if not 0 <= self.overlap <= LARGEST_OVERLAP:
            raise RequestError("extend.overlap", self.overlap, f"between 0 and {LARGEST_OVERLAP}")


@dataclass(frozen=True, kw_only=True)
class CanvasOptions:
    """What a request says about image and mask; see :mod:`intarsia.canvas.canvas` for what each does.

    Attributes:
        width, height: generation size in pixels; None follows the image.
        fixed_size: the output is exactly ``width`` × ``height`` and the image is resized to it.
        mask_source, invert_mask: how the mask is read.
        mask_fill_holes: repaint what the mask surrounds, too.
        mask_min_area: areas of the mask with fewer pixels of the original, or less of it, are left out.
        mask_dilate: growth of the mask, pixels of the original; negative, by how much it shrinks.
        mask_blur: standard deviation of the feather, pixels of the output; 0 is a hard edge.
        mask_padding: least context around the mask, pixels: only the mask's surroundings are generated, at the
            model's native area. None generates the whole image; "auto" does, unless it would be scaled down: then
            only the mask's surroundings, at their own resolution as far as the model allows.
        masked_content: what is under the mask before denoising.
        soft_mask: the mask's grays say from which step on a pixel is repainted.
        extend: the image is enlarged at its sides, and what is new is repainted.
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
    mask_fill_holes: bool = False
    mask_min_area: MinArea = 0
    mask_dilate: int = 0
    mask_blur: float = 4.0
    mask_padding: MaskPadding = None
    masked_content: MaskedContent = "original"
    color_match: bool = False
    soft_mask: bool = False
    extend: Extension | None = None
    native_size: int = 512
    smallest: int = 64
    largest: int = 2048

    def __post_init__(self) -> None:
        self._check_side("width", self.width)
        self._check_side("height", self.height)
        _check_range("mask_dilate", self.mask_dilate, _MOST_DILATE, least=-_MOST_DILATE)
        _check_min_area(self.mask_min_area)
        if self.soft_mask and (self.mask_dilate or self.mask_fill_holes):
            message = "soft_mask takes the mask's grays as they are: not together with mask_dilate or mask_fill_holes"
            raise RequestError("soft_mask", message=message)
        _check_range("mask_blur", self.mask_blur, _MOST_BLUR)
        if self.mask_padding is not None and self.mask_padding != "auto":
            _check_range("mask_padding", self.mask_padding, _MOST_PADDING)
        _check_choice("mask_source", self.mask_source, get_args(MaskSource))
        _check_choice("masked_content", self.masked_content, get_args(MaskedContent))

    def _check_side(self, name: str, side: int | None) -> None:
        if side is None:
            if self.fixed_size:
                raise RequestError(name, side, "given where the output's size is fixed")
        elif not self.smallest <= side <= self.largest:
            raise RequestError(name, side, f"between {self.smallest} and {self.largest}")


def pixels_of(area: MinArea, size: tuple[int, int]) -> int:
    """Pixels of an area that may be per cent of ``size`` (width, height), rounded up."""
    if isinstance(area, int):
        return area
    width, height = size
    return math.ceil(float(area.removesuffix("%")) / 100 * width * height)


def _check_range(name: str, value: float, most: int, *, least: int = 0) -> None:
    is_within = math.isfinite(value) and least <= value <= most
    if not is_within:
        raise RequestError(name, value, f"between {least} and {most}")


def _check_min_area(area: MinArea) -> None:
    is_right = area >= 0 if isinstance(area, int) else re.fullmatch(PER_CENT, area)
    if not is_right:
        raise RequestError("mask_min_area", area, "a number of pixels, or per cent of the image, for example 0.5%")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        choices = ", ".join(allowed)
        raise RequestError(name, value, f"one of {choices}")
