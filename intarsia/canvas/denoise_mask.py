"""The denoise mask of a request: a mask file read, fitted to the image, cleaned, and grown or shrunk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intarsia.canvas.boxes import Size
from intarsia.canvas.components import drop_specks, fill_holes, largest_area
from intarsia.canvas.extension import enlarged_mask
from intarsia.canvas.mask import dilate, erode, fit_mask, resize_mask
from intarsia.canvas.mask_source import binarize, why_empty
from intarsia.canvas.options import CanvasOptions, pixels_of
from intarsia.counted import counted
from intarsia.errors import RequestError
from intarsia.images.rgb_image import RgbImage

__all__ = ["denoise_mask", "empty", "looks_same"]

Mask = NDArray[np.bool_]


def denoise_mask(image: RgbImage, mask: RgbImage | None, options: CanvasOptions) -> tuple[Mask, tuple[str, ...]]:
    """The mask at working size, bool ``[H, W]``, and warnings.

    Args:
        image: as it came, before it is extended.
        mask: None where only what extends the image is repainted.

    Raises:
        RequestError: the mask is empty and the image not extended, or it has another aspect ratio.
    """
    width, height = image.size
    area = np.zeros((height, width), np.bool_)
    warnings: tuple[str, ...] = ()
    if mask is not None:
        area, warnings = _given(image, mask, options)

    if options.extend is not None:
        area = enlarged_mask(area, options.extend)
    if options.fixed_size and options.width and options.height:
        fixed_size = (options.width, options.height)
        area = resize_mask(area, fixed_size)
    return area, warnings


def _given(image: RgbImage, mask: RgbImage, options: CanvasOptions) -> tuple[Mask, tuple[str, ...]]:
    """The mask file as the mask of the image as it came, and warnings."""
    source = options.mask_source
    invert = options.invert_mask
    is_init_image = looks_same(mask, image)

    binary, source_warnings = binarize(mask, source, invert, is_init_image)
    drawn, size_warnings = fit_mask(binary, image.size)
    if not drawn.any():
        raise empty(why_empty(mask, source, invert))

    area = _resized_by(_cleaned(drawn, image.size, options), options.mask_dilate)
    return area, source_warnings + size_warnings


def _cleaned(mask: Mask, size: Size, options: CanvasOptions) -> Mask:
    """``mask`` with its holes filled, then without specks: an outline is as large as what it surrounds."""
    if options.mask_fill_holes:
        mask = fill_holes(mask)

    least = pixels_of(options.mask_min_area, size)
    if least <= 1:
        return mask
    cleaned = drop_specks(mask, least)
    if not cleaned.any():
        largest = largest_area(mask)
        raise empty(f"its largest area has {counted(largest, 'pixel')}, and mask_min_area is {least}")
    return cleaned


def _resized_by(mask: Mask, pixels: int) -> Mask:
    if pixels >= 0:
        return dilate(mask, pixels)
    eroded = erode(mask, -pixels)
    if not eroded.any():
        raise empty(f"mask_dilate {pixels} leaves nothing of it")
    return eroded


def empty(reason: str) -> RequestError:
    """The error of a mask that repaints nothing."""
    return RequestError("mask_image", message=f"mask_image is empty: {reason}")


def looks_same(mask: RgbImage, image: RgbImage) -> bool:
    """Whether one image with transparency is given as both."""
    if mask.alpha is None or image.alpha is None or mask.size != image.size:
        return False
    if not np.array_equal(mask.alpha, image.alpha):
        return False

    differs = (mask.rgb != image.rgb).any(axis=2)
    visible = mask.alpha > 0
    return not differs[visible].any()
