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

from intarsia.canvas.boxes import Box, Geometry, Size
from intarsia.canvas.denoise_mask import denoise_mask
from intarsia.canvas.extension import enlarged
from intarsia.canvas.geometry import geometry
from intarsia.canvas.mask import Feather, bounding_box, feather, resize_mask
from intarsia.canvas.options import CanvasOptions
from intarsia.canvas.paste import Blend, blend, composite, match_colors, paste_area, resize
from intarsia.canvas.remarks import about_hidden, about_scale
from intarsia.canvas.soft_mask import resize_levels, soft_mask
from intarsia.canvas.swapped import about_swapped
from intarsia.images.fill import FAINT, from_surroundings, hidden_pixels, opaque
from intarsia.images.rgb_image import RgbImage

__all__ = ["BLANK", "Canvas", "prepare"]

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

BLANK = 128
"""Level of ``masked_content="blank"``: the middle of the range, zero for the network."""

# The color match compares a ring around the mask at least this wide, in pixels.
_LEAST_RING = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Canvas:
    """An image made ready for the network, and everything needed to paste the result back.

    Attributes:
        geometry: sizes and positions.
        image: uint8 ``[h, w, 3]`` at generation size: what is encoded, with ``masked_content`` applied
            ("noise" leaves the image: the engine starts those latents from noise).
        mask: bool ``[h, w]`` at generation size: the denoise mask, True = repaint.
        levels: uint8 ``[h, w]``, the same of a soft mask: the lower, the later it is repainted; None of a hard one.
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
    levels: Pixels | None = None
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
            blend: computes the same as :func:`intarsia.canvas.paste.blend`, on another device.

        Raises:
            ValueError: ``generated`` has another shape or type.
        """
        shape = (self.geometry.height, self.geometry.width, 3)
        if generated.shape != shape or generated.dtype != np.uint8:
            actual = f"{generated.dtype} {generated.shape}"
            raise ValueError(f"the generated image must be uint8 {shape}, not {actual}")

        x, y = self.geometry.offset
        width, height = self.geometry.resized
        without_padding = generated[y : y + height, x : x + width]

        area = resize(without_padding, self.geometry.crop_size)
        if self.options.color_match:
            area = self._matched(area)

        weights, alpha = self._composite
        rgb = paste_area(self.working.rgb, area, self.geometry.crop, weights, blend)
        return RgbImage(rgb, alpha, icc_profile=self.working.icc_profile).to_pil()

    def untouched(self) -> Image.Image:
        """The image as it is where nothing is repainted, at the output's size."""
        return self.working.to_pil()

    def touched(self) -> Mask:
        """bool ``[H, W]`` of the output: the pixels that :meth:`paste` may change."""
        feathered = np.zeros(self.area.shape, dtype=np.bool_)
        in_feather = _cut(feathered, self.feather.box)
        in_feather[:] = self.feather.weights > 0

        cropped = np.zeros_like(feathered)
        in_crop = _cut(cropped, self.geometry.crop)
        in_crop[:] = True
        return feathered & cropped

    def _matched(self, area: Pixels) -> Pixels:
        """``area`` in the colors that surround the mask."""
        feather_width = math.ceil(2 * self.options.mask_blur)
        ring = max(_LEAST_RING, feather_width)
        mask = _cut(self.area, self.geometry.crop)
        return match_colors(area, self.shown, mask, ring)

    @cached_property
    def _composite(self) -> tuple[Feather, Pixels | None]:
        """The share of the generated colors, and the output's alpha."""
        alpha = self.working.alpha
        hidden = hidden_pixels(alpha)
        if alpha is None or hidden is None:
            return self.feather, alpha

        repaints_hidden = hidden[self.area].any()
        if repaints_hidden:
            return composite(alpha, self.geometry.crop, self.feather)

        # The feather alone reaches hidden pixels: they stay hidden, and as they are.
        box = self.feather.box
        hidden_here = _cut(hidden, box)
        weights = np.where(hidden_here, np.uint8(0), self.feather.weights)
        return Feather(box, weights), alpha


def prepare(image: RgbImage, mask: RgbImage | None, options: CanvasOptions | None = None) -> Canvas:
    """Make ``image`` and ``mask`` ready to be generated.

    Args:
        mask: None where the image is extended and only what is new is repainted.

    Raises:
        RequestError: the mask is empty, has another aspect ratio, or an option does not fit.
    """
    options = options or CanvasOptions()
    area, levels, mask_warnings = _read_mask(image, mask, options)
    height, width = area.shape
    working_size = (width, height)
    mask_box = bounding_box(area) or (0, 0, width, height)
    layout = geometry(image.size, working_size, mask_box, options)

    whole = enlarged(image, options.extend) if options.extend else image
    working = _working(whole, working_size)
    hidden = hidden_pixels(working.alpha)
    shown = _shown(working, area, layout.crop)

    pixels = _padded(resize(shown, layout.resized), layout)
    generation_mask = _generation_mask(area, layout)
    hole = _hole(hidden, area, layout)

    return Canvas(
        geometry=layout,
        image=_start(pixels, generation_mask, hole, options),
        mask=generation_mask,
        levels=None if levels is None else _generation_levels(levels, layout),
        working=working,
        shown=shown,
        area=area,
        feather=feather(area, options.mask_blur),
        options=options,
        warnings=(
            *mask_warnings,
            *about_scale(layout, options),
            *about_hidden(hidden, area),
        ),
    )


def _read_mask(
    image: RgbImage, mask: RgbImage | None, options: CanvasOptions
) -> tuple[NDArray[np.bool_], NDArray[np.uint8] | None, tuple[str, ...]]:
    """What is repainted, the levels of a soft mask (None of any other), and warnings."""
    if mask is not None and options.soft_mask:
        levels, warnings = soft_mask(image, mask, options)
        return levels > 0, levels, warnings

    swap_warnings = about_swapped(image, mask) if mask else ()
    area, warnings = denoise_mask(image, mask, options)
    return area, None, (*swap_warnings, *warnings)


def _working(image: RgbImage, size: Size) -> RgbImage:
    """``image`` to composite into, resized where a request fixes the output's size."""
    if image.size == size:
        if image.is_gray:
            channels = np.ascontiguousarray(image.rgb)
            return replace(image, rgb=channels, is_gray=False)
        return image

    # Opaque first: resizing mixes neighbors, and what is hidden is not to be mixed into what is seen.
    filled = opaque(image.rgb, image.alpha)
    rgb = resize(filled, size)
    alpha = None
    if image.alpha is not None:
        alpha = resize(image.alpha, size)
    return RgbImage(rgb, alpha, icc_profile=image.icc_profile, path=image.path)


def _shown(working: RgbImage, area: Mask, crop: Box) -> Pixels:
    """The crop without transparency: filled from its own visible pixels, or the whole image's where it has none."""
    if working.alpha is None:
        return _cut(working.rgb, crop)

    alpha = _cut(working.alpha, crop)
    if alpha.max() < FAINT:
        filled = opaque(working.rgb, working.alpha, area)
        return _cut(filled, crop)

    rgb = _cut(working.rgb, crop)
    mask = _cut(area, crop)
    return opaque(rgb, alpha, mask)


def _generation_mask(area: Mask, layout: Geometry) -> Mask:
    """A mask of the working image at generation size."""
    cropped = _cut(area, layout.crop)
    resized = resize_mask(cropped, layout.resized)
    return _padded(resized, layout)


def _generation_levels(levels: Pixels, layout: Geometry) -> Pixels:
    """A soft mask of the working image at generation size."""
    cropped = _cut(levels, layout.crop)
    return _padded(resize_levels(cropped, layout.resized), layout)


def _hole(hidden: Mask | None, area: Mask, layout: Geometry) -> Mask:
    """The part of the mask where the image is transparent, at generation size."""
    if hidden is None:
        return np.zeros((layout.height, layout.width), np.bool_)
    return _generation_mask(hidden & area, layout)


def _start(pixels: Pixels, mask: Mask, hole: Mask, options: CanvasOptions) -> Pixels:
    """``pixels`` with ``masked_content`` under the mask; a hole has no content and is filled in any case.

    Args:
        mask: the denoise mask; hole: the part of it where the image is transparent. All at generation size.
    """
    content = options.masked_content
    if content == "fill":
        return from_surroundings(pixels, mask)
    if content == "blank":
        masked = mask[:, :, None]
        return np.where(masked, np.uint8(BLANK), pixels)

    # A mask that covers everything leaves nothing to fill from but what it covers, and that was done.
    if not hole.any() or mask.all():
        return pixels
    in_hole = hole[:, :, None]
    filled = from_surroundings(pixels, mask)
    return np.where(in_hole, filled, pixels)


def _cut(array: NDArray[Any], box: Box) -> NDArray[Any]:
    """The pixels inside ``box``, a view."""
    x0, y0, x1, y1 = box
    return array[y0:y1, x0:x1]


def _padded(pixels: NDArray[Any], layout: Geometry) -> NDArray[Any]:
    """Padded to generation size by repeating the edge; the mask too, so that it does not end at an edge."""
    if not any(layout.padding):
        return pixels

    left, top, right, bottom = layout.padding
    widths = [(top, bottom), (left, right)]
    if pixels.ndim == 3:
        widths.append((0, 0))
    return np.pad(pixels, widths, mode="edge")
