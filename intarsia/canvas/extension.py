"""Outpainting: an image enlarged at its sides, and the mask of what is new."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from intarsia.canvas.boxes import Size
from intarsia.canvas.options import Extension
from intarsia.images.fill import opaque
from intarsia.images.rgb_image import RgbImage

__all__ = ["enlarged", "enlarged_levels", "enlarged_mask", "enlarged_size"]

Mask = NDArray[np.bool_]

# Standard deviation by which the stretched edge is blurred: a share of the longest extension, at most so many pixels.
_BLUR, _MOST_BLUR = 1 / 8, 32


def enlarged_size(size: Size, extension: Extension) -> Size:
    """Width and height with the new area."""
    width, height = size
    return extension.left + width + extension.right, extension.top + height + extension.bottom


def enlarged(image: RgbImage, extension: Extension) -> RgbImage:
    """The image with its new area, which is opaque and begins with the colors of the edge beside it, blurred."""
    widths = ((extension.top, extension.bottom), (extension.left, extension.right))
    inside = _inside(image.size, extension)

    visible = opaque(image.rgb, image.alpha)
    stretched = Image.fromarray(np.pad(visible, (*widths, (0, 0)), mode="edge"))
    longest = max(extension.left, extension.top, extension.right, extension.bottom)
    blurred = stretched.filter(ImageFilter.GaussianBlur(min(longest * _BLUR, _MOST_BLUR)))

    rgb = np.array(blurred)
    rgb[inside] = image.rgb
    alpha = None
    if image.alpha is not None:
        alpha = np.pad(image.alpha, widths, constant_values=255)
    return RgbImage(rgb, alpha, icc_profile=image.icc_profile, path=image.path, warnings=image.warnings)


def enlarged_mask(mask: Mask, extension: Extension) -> Mask:
    """A mask of the image together with the new area and its overlap, bool ``[H, W]`` of the enlarged image."""
    height, width = mask.shape
    kept = np.zeros((height, width), np.bool_)
    rows = _kept(height, extension.top, extension.bottom, extension.overlap)
    columns = _kept(width, extension.left, extension.right, extension.overlap)
    kept[rows, columns] = True

    new_width, new_height = enlarged_size((width, height), extension)
    area = np.ones((new_height, new_width), np.bool_)
    area[_inside((width, height), extension)] = mask | ~kept
    return area


def enlarged_levels(levels: NDArray[np.uint8], extension: Extension) -> NDArray[np.uint8]:
    """A soft mask at the enlarged size: the new area and its overlap are white.

    Args:
        levels: uint8 ``[height, width]``, the mask of the image as it was; 255 is repainted from the first step.

    Returns:
        uint8, of the enlarged height and width.
    """
    nothing = np.zeros(levels.shape, np.bool_)
    new = enlarged_mask(nothing, extension)
    height, width = levels.shape
    out = np.full(new.shape, 255, np.uint8)
    inside = _inside((width, height), extension)
    out[inside] = np.where(new[inside], np.uint8(255), levels)
    return out


def _kept(length: int, before: int, after: int, overlap: int) -> slice:
    """The part of a side that does not lie in the overlap."""
    first = overlap if before else 0
    end = length - overlap if after else length
    return slice(first, max(first, end))


def _inside(size: Size, extension: Extension) -> tuple[slice, slice]:
    """Rows and columns of the image in the enlarged one."""
    width, height = size
    rows = slice(extension.top, extension.top + height)
    columns = slice(extension.left, extension.left + width)
    return rows, columns
