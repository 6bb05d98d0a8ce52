"""From an image and a mask to what is generated, and back: :func:`prepare` and :meth:`Canvas.paste`.

The way there: mask read and grown, image cropped → resized → padded to a multiple of 8. The way back:
padding cut off → resized → blended into the image at its own resolution by the feathered mask. Outside
that feather the output is the input, byte for byte, alpha included. The network is shown an opaque image:
what is stored under transparent pixels takes no part; where such pixels are repainted, they become opaque.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.canvas.geometry import CanvasOptions, Geometry, geometry
from intarsia.canvas.mask import (
    Box,
    Feather,
    bounding_box,
    dilate,
    feather,
    fit_mask,
    latent_mask,
    resize_mask,
)
from intarsia.canvas.mask_source import binarize, why_empty
from intarsia.canvas.paste import Blend, blend, composite, match_colors, paste_area, resize
from intarsia.errors import RequestError
from intarsia.images.fill import FAINT, from_surroundings, hidden_pixels, opaque
from intarsia.images.rgb_image import RgbImage

__all__ = ["Canvas", "CanvasOptions", "Geometry", "latent_mask", "lay_out", "prepare"]

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

BLANK = 128
"""Level of ``masked_content="blank"``: the middle of the range, zero for the network."""

# Below this scale the repaint is enlarged visibly when it is pasted back.
_COARSE = 0.5


@dataclass(frozen=True, eq=False, kw_only=True)
class Canvas:
    """An image made ready for the network, and everything needed to paste the result back.

    Attributes:
        geometry: sizes and positions.
        image: uint8 ``[h, w, 3]`` at generation size: what is encoded, with ``masked_content`` applied
            ("noise" leaves the image: the engine starts those latents from noise).
        mask: bool ``[h, w]`` at generation size: the denoise mask, True = repaint.
        working: the image at working size.
        shown: uint8, the crop of it as it is shown to the network, opaque, before ``masked_content``.
        area: bool ``[H, W]``: the denoise mask at working size.
        feather: the composite mask at working size.
        options: what was asked for.
        warnings: what the caller should know.
    """

    geometry: Geometry
    image: Pixels
    mask: Mask
    working: RgbImage
    shown: Pixels
    area: Mask
    feather: Feather
    options: CanvasOptions
    warnings: tuple[str, ...] = ()

    def paste(self, generated: Pixels, blend: Blend = blend) -> Image.Image:
        """The finished image, RGB or RGBA, with the input's color profile in ``info``.

        Args:
            generated: uint8 ``[h, w, 3]`` at generation size.
            blend: says the same as :func:`intarsia.canvas.paste.blend`, on another device.

        Raises:
            ValueError: ``generated`` has another shape or type.
        """
        layout = self.geometry
        shape = (layout.height, layout.width, 3)
        if generated.shape != shape or generated.dtype != np.uint8:
            found = f"{generated.dtype} {generated.shape}"
            raise ValueError(f"the generated image must be uint8 {shape}, not {found}")
        (x, y), (width, height) = layout.offset, layout.resized
        area = resize(generated[y : y + height, x : x + width], layout.crop_size)
        if self.options.color_match:
            x0, y0, x1, y1 = layout.crop
            ring = max(8, math.ceil(2 * self.options.mask_blur))
            area = match_colors(area, self.shown, self.area[y0:y1, x0:x1], ring)
        weights, alpha = self._layer
        rgb = paste_area(self.working.rgb, area, layout.crop, weights, blend)
        return RgbImage(rgb, alpha, self.working.icc_profile).to_pil()

    def untouched(self) -> Image.Image:
        """The image as it is where nothing is repainted, at the output's size."""
        return self.working.to_pil()

    def touched(self) -> Mask:
        """bool ``[H, W]`` of the output: the pixels that :meth:`paste` may change."""
        result = np.zeros(self.area.shape, dtype=np.bool_)
        x0, y0, x1, y1 = self.feather.box
        result[y0:y1, x0:x1] = self.feather.weights > 0
        x0, y0, x1, y1 = self.geometry.crop
        inside = np.zeros_like(result)
        inside[y0:y1, x0:x1] = True
        return result & inside

    @cached_property
    def _layer(self) -> tuple[Feather, Pixels | None]:
        """The share of the generated colors, and the output's alpha."""
        alpha, hidden = self.working.alpha, hidden_pixels(self.working.alpha)
        if alpha is None or hidden is None:
            return self.feather, alpha
        if hidden[self.area].any():
            return composite(alpha, self.geometry.crop, self.feather)
        x0, y0, x1, y1 = self.feather.box
        # The feather alone reaches hidden pixels: they stay hidden, and as they are.
        return Feather(self.feather.box, np.where(hidden[y0:y1, x0:x1], np.uint8(0), self.feather.weights)), alpha


def prepare(image: RgbImage, mask: RgbImage, options: CanvasOptions | None = None) -> Canvas:
    """Make ``image`` and ``mask`` ready to be generated.

    Raises:
        RequestError: the mask is empty, has another aspect ratio, or an option does not fit.
    """
    options = options or CanvasOptions()
    area, warnings = _denoise_mask(image, mask, options)
    layout = _layout(image, area, options)
    working = _working(image, layout.working)
    hidden = hidden_pixels(working.alpha)

    x0, y0, x1, y1 = layout.crop
    shown = _shown(working, area, layout.crop)
    pixels = _padded(resize(shown, layout.resized), layout)
    wanted = _padded(resize_mask(area[y0:y1, x0:x1], layout.resized), layout)
    hole = np.zeros_like(wanted)
    if hidden is not None:
        hole = _padded(resize_mask((hidden & area)[y0:y1, x0:x1], layout.resized), layout)
    pixels = _start(pixels, wanted, hole, options)

    if options.mask_padding is None and layout.scale < _COARSE:
        warnings += (
            f"generated at {layout.width}x{layout.height} and enlarged {1 / layout.scale:.1f} times; "
            f"mask_padding generates only the mask's surroundings, at full resolution",
        )
    if hidden is not None:
        warnings += _about_hidden(hidden, area)
    return Canvas(
        geometry=layout,
        image=pixels,
        mask=wanted,
        working=working,
        shown=shown,
        area=area,
        feather=feather(area, options.mask_blur),
        options=options,
        warnings=warnings,
    )


def _shown(working: RgbImage, area: Mask, crop: Box) -> Pixels:
    """The crop without transparency: filled from its own visible pixels, or the whole image's where it has none."""
    x0, y0, x1, y1 = crop
    rgb, alpha = working.rgb[y0:y1, x0:x1], working.alpha
    if alpha is None:
        return rgb
    part = alpha[y0:y1, x0:x1]
    if part.max() < FAINT:
        return opaque(working.rgb, alpha, area)[y0:y1, x0:x1]
    return opaque(rgb, part, area[y0:y1, x0:x1])


def _start(pixels: Pixels, wanted: Mask, hole: Mask, options: CanvasOptions) -> Pixels:
    """``pixels`` with ``masked_content`` under the mask; a hole has no content and is filled in any case.

    Args:
        wanted: the denoise mask; hole: the part of it where the image is transparent. All at generation size.
    """
    content = options.masked_content
    if content == "blank":
        return np.where(wanted[:, :, None], np.uint8(BLANK), pixels)
    if content == "fill":
        return from_surroundings(pixels, wanted)
    # A mask that covers everything leaves nothing to fill from but what it covers, and that was done.
    if not hole.any() or wanted.all():
        return pixels
    return np.where(hole[:, :, None], from_surroundings(pixels, wanted), pixels)


def _about_hidden(hidden: Mask, area: Mask) -> tuple[str, ...]:
    """Warnings about transparent pixels, but for the plain case of a mask that covers a hole."""
    if hidden.all():
        return ("init_image is transparent everywhere: the network is shown plain gray",)
    masked = hidden[area]
    if masked.any() and 2 * int(np.count_nonzero(masked)) < masked.size:
        return ("the mask covers transparent pixels of init_image: what is repainted becomes opaque",)
    return ()


def lay_out(image: RgbImage, mask: RgbImage, options: CanvasOptions | None = None) -> Geometry:
    """The geometry alone, as :func:`prepare` would have it; raises the same errors."""
    options = options or CanvasOptions()
    area, _ = _denoise_mask(image, mask, options)
    return _layout(image, area, options)


def _denoise_mask(image: RgbImage, mask: RgbImage, options: CanvasOptions) -> tuple[Mask, tuple[str, ...]]:
    """The grown mask at working size, and warnings."""
    binary, notes = binarize(mask, options.mask_source, options.invert_mask, _looks_same(mask, image))
    area, more = fit_mask(binary, image.size)
    if not area.any():
        reason = why_empty(mask, options.mask_source, options.invert_mask)
        raise RequestError("mask_image", message=f"mask_image is empty: {reason}")
    area = dilate(area, options.mask_dilate)
    if options.fixed_size and options.width and options.height:
        area = resize_mask(area, (options.width, options.height))
    return area, notes + more


def _looks_same(mask: RgbImage, image: RgbImage) -> bool:
    """Whether one image with transparency is given as both."""
    if mask.alpha is None or image.alpha is None or mask.size != image.size:
        return False
    if not np.array_equal(mask.alpha, image.alpha):
        return False
    differs = (mask.rgb != image.rgb).any(axis=2)
    return not differs[mask.alpha > 0].any()


def _layout(image: RgbImage, area: Mask, options: CanvasOptions) -> Geometry:
    working = (area.shape[1], area.shape[0])
    return geometry(image.size, working, bounding_box(area) or (0, 0, *working), options)


def _working(image: RgbImage, size: tuple[int, int]) -> RgbImage:
    """``image`` to composite into, resized where a request fixes the output's size."""
    if image.size == size:
        return replace(image, rgb=np.ascontiguousarray(image.rgb), is_gray=False) if image.is_gray else image
    alpha = None if image.alpha is None else resize(image.alpha, size)
    # Opaque first: resizing mixes neighbors, and what is hidden is not to be mixed into what is seen.
    return RgbImage(resize(opaque(image.rgb, image.alpha), size), alpha, image.icc_profile, image.path)


def _padded(pixels: NDArray[Any], layout: Geometry) -> NDArray[Any]:
    """Padded to generation size by repeating the edge; the mask too, so that it does not end at an edge."""
    left, top, right, bottom = layout.padding
    if not any(layout.padding):
        return pixels
    widths = ((top, bottom), (left, right), (0, 0))[: pixels.ndim]
    return np.pad(pixels, widths, mode="edge")
