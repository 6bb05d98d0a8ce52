"""A request's images, opened, and what a plan says about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from intarsia.canvas.boxes import Geometry
from intarsia.canvas.canvas import Canvas, prepare
from intarsia.canvas.extension import enlarged_size
from intarsia.canvas.geometry import follows_mask
from intarsia.canvas.options import CanvasOptions, Extension, pixels_of
from intarsia.engine.known_images import ImagesPlan
from intarsia.engine.plan import CanvasPlan
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError
from intarsia.images.access import Access, pixel_limit
from intarsia.images.rgb_image import RgbImage
from intarsia.images.sources import open_image
from intarsia.registry.entries import ModelEntry

__all__ = ["OpenedImages", "canvas_options", "canvas_plan", "images_plan", "open_images"]


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenedImages:
    """The request's images, opened; ``prompt`` is the one that an IP adapter shows to the network.

    An image that is extended may be without a mask.
    """

    image: RgbImage
    mask: RgbImage | None
    prompt: RgbImage | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the conversions."""
        images = (self.prompt, self.image, self.mask)
        return tuple(warning for image in images if image for warning in image.warnings)

    @property
    def prompt_sha256(self) -> str:
        """Of the pixels of an IP adapter's image; "" without one."""
        return self.prompt.sha256 if self.prompt else ""


def open_images(request: InpaintRequest, access: Access) -> OpenedImages:
    """Open them; RequestError, or SourceError, where one is missing or cannot be read."""
    image = _open_image("init_image", request.init_image, access)
    mask = None
    if request.mask_image is not None or "mask_image" in request.required_images:
        mask = _open_image("mask_image", request.mask_image, access)
    _check_extended(image, request, access)
    prompt = None
    if request.ip_adapter is not None:
        prompt = _open_image("ip_adapter.image", request.ip_adapter.image, access)
    return OpenedImages(image=image, mask=mask, prompt=prompt)


def images_plan(request: InpaintRequest, options: CanvasOptions, access: Access) -> ImagesPlan:
    """What opening a request's images gives for its plan."""
    images = open_images(request, access)
    canvas = prepare(images.image, images.mask, options)
    return ImagesPlan(canvas=canvas_plan(canvas, options, images), prompt_sha256=images.prompt_sha256)


def canvas_options(request: InpaintRequest, entry: ModelEntry) -> CanvasOptions:
    """What a request says about its canvas, for a model."""
    if request.fit_output and (request.width is None or request.height is None):
        raise RequestError("fit_output", message="fit_output needs both width and height")
    return CanvasOptions(
        width=request.width,
        height=request.height,
        fixed_size=request.fit_output,
        mask_source=request.mask_source,
        invert_mask=request.invert_mask,
        mask_fill_holes=request.mask_fill_holes,
        mask_min_area=request.mask_min_area,
        mask_dilate=request.mask_dilate,
        mask_blur=float(request.mask_blur),
        mask_padding=None if request.mask_padding == "whole" else request.mask_padding,
        masked_content=request.masked_content,
        color_match=request.color_match,
        soft_mask=request.soft_mask,
        extend=Extension(**request.extend.model_dump()) if request.extend else None,
        native_size=entry.size,
    )


def canvas_plan(canvas: Canvas, options: CanvasOptions, images: OpenedImages) -> CanvasPlan:
    """What a plan says of a prepared canvas."""
    return CanvasPlan(
        geometry=canvas.geometry,
        image_sha256=images.image.sha256,
        mask_sha256=images.mask.sha256 if images.mask else "",
        mask_source=options.mask_source,
        invert_mask=options.invert_mask,
        mask_dilate=options.mask_dilate,
        mask_blur=options.mask_blur,
        mask_padding=_padding(canvas.geometry, options),
        masked_content=options.masked_content,
        color_match=options.color_match,
        mask_fill_holes=options.mask_fill_holes,
        mask_min_area=pixels_of(options.mask_min_area, images.image.size),
        extend=options.extend,
        soft_mask=options.soft_mask,
    )


def _padding(layout: Geometry, options: CanvasOptions) -> Literal["auto"] | int:
    """``mask_padding`` of a plan: "auto" where it decided, -1 where all is generated in any case."""
    padding = options.mask_padding
    if padding is None or (padding == "auto" and not follows_mask(layout.working, options)):
        return -1
    return padding


def _open_image(field: str, value: Any, access: Access) -> RgbImage:
    if value is None:
        raise RequestError(field, message=f"{field} is required")
    return open_image(field, value, access)


def _check_extended(image: RgbImage, request: InpaintRequest, access: Access) -> None:
    """An enlarged image may have as many pixels as one that is read."""
    if request.extend is None:
        return
    width, height = enlarged_size(image.size, Extension(**request.extend.model_dump()))
    limit = pixel_limit(access.max_pixels)
    if width * height > limit:
        message = f"extend makes {width}x{height} pixels; the limit is {limit:.0f} (max_pixels, --max-pixels)"
        raise RequestError("extend", message=message)
