"""From a picture and a mask to what is generated, and back: :func:`prepare` and :meth:`Canvas.paste`.

The way there: mask read and grown, picture cropped → resized → padded to a multiple of 8. The way back:
padding cut off → resized → blended into the picture at its own resolution by the feathered mask. Outside
that feather the output is the input, byte for byte, alpha included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlay.engine.fill import from_surroundings
from inlay.engine.geometry import CanvasOptions, Geometry, geometry
from inlay.engine.mask import (
    Feather,
    binarise,
    bounding_box,
    dilate,
    feather,
    fit_mask,
    latent_mask,
    resize_mask,
)
from inlay.engine.paste import Blend, blend, match_colors, overlap, paste_area, resize
from inlay.engine.pictures import Picture
from inlay.errors import RequestError

__all__ = ["Canvas", "CanvasOptions", "Geometry", "latent_mask", "lay_out", "prepare"]

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

BLANK = 128
"""Level of ``masked_content="blank"``: the middle of the range, zero for the network."""

# Below this scale the repaint is enlarged visibly when it is pasted back.
_COARSE = 0.5


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture made ready for the network, and everything needed to paste the result back.

    Attributes:
        geometry: sizes and positions.
        image: uint8 ``[h, w, 3]`` at generation size: what is encoded, with ``masked_content`` applied
            ("noise" leaves the picture: the engine starts those latents from noise).
        mask: bool ``[h, w]`` at generation size: the denoise mask, True = repaint.
        picture: the picture at working size.
        area: bool ``[H, W]``: the denoise mask at working size.
        feather: the composite mask at working size.
        options: what was asked for.
        warnings: what the caller should know.
    """

    geometry: Geometry
    image: Pixels
    mask: Mask
    picture: Picture
    area: Mask
    feather: Feather
    options: CanvasOptions
    warnings: tuple[str, ...] = ()

    def paste(self, generated: Pixels, blend: Blend = blend) -> Image.Image:
        """The finished picture, RGB or RGBA, with the input's colour profile in ``info``.

        Args:
            generated: uint8 ``[h, w, 3]`` at generation size.
            blend: says the same as :func:`inlay.engine.paste.blend`, on another device.

        Raises:
            ValueError: ``generated`` has another shape or type.
        """
        layout = self.geometry
        shape = (layout.height, layout.width, 3)
        if generated.shape != shape or generated.dtype != np.uint8:
            found = f"{generated.dtype} {generated.shape}"
            raise ValueError(f"the generated picture must be uint8 {shape}, not {found}")
        (x, y), (width, height) = layout.offset, layout.resized
        area = resize(generated[y : y + height, x : x + width], layout.crop_size)
        if self.options.color_match:
            x0, y0, x1, y1 = layout.crop
            ring = max(8, math.ceil(2 * self.options.mask_blur))
            area = match_colors(area, self.picture.rgb[y0:y1, x0:x1], self.area[y0:y1, x0:x1], ring)
        rgb = paste_area(self.picture.rgb, area, layout.crop, self.feather, blend)
        return Picture(rgb, self._alpha(), self.picture.icc_profile).to_pil()

    def untouched(self) -> Image.Image:
        """The picture as it is where nothing is repainted, at the output's size."""
        return self.picture.to_pil()

    def touched(self) -> Mask:
        """bool ``[H, W]`` of the output: the pixels that :meth:`paste` may change."""
        result = np.zeros(self.area.shape, dtype=np.bool_)
        x0, y0, x1, y1 = self.feather.box
        result[y0:y1, x0:x1] = self.feather.weights > 0
        x0, y0, x1, y1 = self.geometry.crop
        inside = np.zeros_like(result)
        inside[y0:y1, x0:x1] = True
        return result & inside

    def _alpha(self) -> Pixels | None:
        """The input's alpha; a transparent hole that is to be filled becomes opaque by the feather."""
        alpha = self.picture.alpha
        if alpha is None or not _is_hole(alpha, self.area):
            return alpha
        out = alpha.copy()
        x0, y0, x1, y1 = box = overlap(self.geometry.crop, self.feather.box)
        left, top = self.feather.box[:2]
        weights = self.feather.weights[box[1] - top : box[3] - top, box[0] - left : box[2] - left]
        part = alpha[y0:y1, x0:x1]
        out[y0:y1, x0:x1] = blend(part, np.full_like(part, 255), weights)
        return out


def prepare(image: Picture, mask: Picture, options: CanvasOptions | None = None) -> Canvas:
    """Make ``image`` and ``mask`` ready to be generated.

    Raises:
        RequestError: the mask is empty, has another aspect ratio, or an option does not fit.
    """
    options = options or CanvasOptions()
    area, warnings = _denoise_mask(image, mask, options)
    layout = _layout(image, area, options)
    picture = _working(image, layout.working)
    x0, y0, x1, y1 = layout.crop
    pixels = _padded(resize(picture.rgb[y0:y1, x0:x1], layout.resized), layout)
    wanted = _padded(resize_mask(area[y0:y1, x0:x1], layout.resized), layout)
    if options.masked_content == "fill":
        pixels = from_surroundings(pixels, wanted)
    elif options.masked_content == "blank":
        pixels = np.where(wanted[:, :, None], np.uint8(BLANK), pixels)
    if options.mask_padding is None and layout.scale < _COARSE:
        warnings += (
            f"generated at {layout.width}x{layout.height} and enlarged {1 / layout.scale:.1f} times; "
            f"mask_padding generates only the mask's surroundings, at full resolution",
        )
    if picture.alpha is not None and not _is_hole(picture.alpha, area) and not picture.alpha[area].all():
        warnings += ("the mask covers transparent pixels of init_image; its alpha is kept",)
    shade = feather(area, options.mask_blur)
    return Canvas(layout, pixels, wanted, picture, area, shade, options, warnings)


def lay_out(image: Picture, mask: Picture, options: CanvasOptions | None = None) -> Geometry:
    """The geometry alone, as :func:`prepare` would have it; raises the same errors."""
    options = options or CanvasOptions()
    area, _ = _denoise_mask(image, mask, options)
    return _layout(image, area, options)


def _denoise_mask(image: Picture, mask: Picture, options: CanvasOptions) -> tuple[Mask, tuple[str, ...]]:
    """The grown mask at working size, and warnings."""
    binary, notes = binarise(mask, options.mask_source, options.invert_mask)
    area, more = fit_mask(binary, image.size)
    if not area.any():
        raise RequestError("mask_image", message=f"mask_image is empty: {_why_empty(mask, options)}")
    area = dilate(area, options.mask_dilate)
    if options.fixed_size and options.width and options.height:
        area = resize_mask(area, (options.width, options.height))
    return area, notes + more


def _why_empty(mask: Picture, options: CanvasOptions) -> str:
    if options.invert_mask:
        return "inverted, no pixel of it is to be repainted"
    if options.mask_source == "alpha":
        return "no pixel of it is transparent (alpha below 128 is repainted)"
    return f"its brightest pixel is {mask.gray.max()}, and 128 and above is repainted"


def _layout(image: Picture, area: Mask, options: CanvasOptions) -> Geometry:
    working = (area.shape[1], area.shape[0])
    return geometry(image.size, working, bounding_box(area) or (0, 0, *working), options)


def _working(image: Picture, size: tuple[int, int]) -> Picture:
    """The picture that is composited into: the image, resized where a request fixes the output's size."""
    if image.size == size:
        return replace(image, rgb=np.ascontiguousarray(image.rgb), is_gray=False) if image.is_gray else image
    alpha = None if image.alpha is None else resize(image.alpha, size)
    return Picture(resize(image.rgb, size), alpha, image.icc_profile, image.path)


def _padded(pixels: NDArray[Any], layout: Geometry) -> NDArray[Any]:
    """Padded to generation size by repeating the edge; the mask too, so that it does not end at an edge."""
    left, top, right, bottom = layout.padding
    if not any(layout.padding):
        return pixels
    widths = ((top, bottom), (left, right), (0, 0))[: pixels.ndim]
    return np.pad(pixels, widths, mode="edge")


def _is_hole(alpha: Pixels, area: Mask) -> bool:
    """Whether the mask mostly covers pixels that are fully transparent: a hole that is to be filled."""
    masked = alpha[area]
    return 2 * int(np.count_nonzero(masked == 0)) >= masked.size
