"""Soft masks: the grays of a mask file as levels, by which the loop repaints what is darker from a later step on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.canvas.boxes import Size
from intarsia.canvas.components import drop_specks
from intarsia.canvas.denoise_mask import empty, looks_same
from intarsia.canvas.extension import enlarged_levels
from intarsia.canvas.mask import fit_mask
from intarsia.canvas.mask_source import gray_levels
from intarsia.canvas.options import CanvasOptions, pixels_of
from intarsia.images.rgb_image import RgbImage

__all__ = ["LEAST_LEVEL", "latent_levels", "resize_levels", "soft_mask"]

Levels = NDArray[np.uint8]

LEAST_LEVEL = 8
"""Levels below are black: JPEG leaves such noise, and no step of a usual request is as late as they say."""


def soft_mask(image: RgbImage, mask: RgbImage, options: CanvasOptions) -> tuple[Levels, tuple[str, ...]]:
    """The levels at working size, uint8 ``[H, W]``: 255 is repainted from the first step on, 0 not at all.

    Args:
        image: as it came, before it is extended.

    Returns:
        The levels, and warnings.

    Raises:
        RequestError: the mask is black, or has another aspect ratio.
    """
    levels = gray_levels(mask, options.mask_source, options.invert_mask, looks_same(mask, image))
    levels = np.where(levels < LEAST_LEVEL, np.uint8(0), levels)
    _, warnings = fit_mask(levels > 0, image.size)
    levels = resize_levels(levels, image.size)

    least = pixels_of(options.mask_min_area, image.size)
    if least > 1:
        levels = np.where(drop_specks(levels > 0, least), levels, np.uint8(0))
    if not levels.any():
        raise empty(f"nothing of it is {LEAST_LEVEL} or brighter, in areas of mask_min_area")

    if not (levels % 255).any():
        warnings = (*warnings, "soft_mask changes little: mask_image has no grays")
    if options.extend is not None:
        levels = enlarged_levels(levels, options.extend)
    if options.fixed_size and options.width and options.height:
        levels = resize_levels(levels, (options.width, options.height))
    return levels, warnings


def resize_levels(levels: Levels, size: Size) -> Levels:
    """Levels at ``size`` (width, height), interpolated bilinearly where they have another."""
    height, width = levels.shape
    if (width, height) == size:
        return levels
    resized = Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized)


def latent_levels(levels: Levels, factor: int) -> NDArray[np.float32]:
    """Levels 0 … 1 of the latents, float32 ``[h / factor, w / factor]``: the mean of each cell."""
    height, width = levels.shape
    cells = levels.reshape(height // factor, factor, width // factor, factor)
    means: NDArray[np.float64] = cells.mean(axis=(1, 3), dtype=np.float64)
    return (means / 255).astype(np.float32)
