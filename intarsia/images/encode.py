"""Encoding images as PNG, JPEG or WebP, with their metadata: bytes, and warnings of what is lost."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from intarsia.errors import OutputError
from intarsia.former_name import NAME
from intarsia.images.embedded import NOTHING, EmbeddedMetadata
from intarsia.images.exif_texts import FileTexts, exif_of
from intarsia.images.fill import opaque
from intarsia.images.json_text import as_text, to_json
from intarsia.images.output_names import Format

__all__ = ["SaveOptions", "encode"]

# A JPEG segment holds 65,535 bytes, two of them its length, six the word "Exif"; of XMP, 29 are its name.
_LONGEST_COMMENT = 65535 - 2
_LONGEST_EXIF = _LONGEST_COMMENT - 6
_LONGEST_XMP = _LONGEST_COMMENT - 29


@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """How an image is encoded and written.

    Attributes:
        quality: JPEG and lossy WebP, 1 … 100.
        lossless: WebP without loss. JPEG is never lossless: outside the mask its pixels do change, and a warning says
            so.
        compression: PNG, 0 (fast) … 9 (small).
        overwrite: replace a file that is there; otherwise it is an error.

    Raises:
        OutputError: a value outside its limits.
    """

    quality: int = 95
    lossless: bool = True
    compression: int = 6
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise OutputError(f"quality must be between 1 and 100, not {self.quality}")
        if not 0 <= self.compression <= 9:
            raise OutputError(f"compression must be between 0 and 9, not {self.compression}")


def encode(
    image: Image.Image,
    format: Format,
    *,
    metadata: Mapping[str, Any] | None = None,
    parameters: str | None = None,
    embedded: EmbeddedMetadata = NOTHING,
    options: SaveOptions | None = None,
) -> tuple[bytes, tuple[str, ...]]:
    """The encoded file and warnings; of what is in the image's ``info`` only its color profile is copied.

    Args:
        metadata, parameters, embedded, options: as in :func:`intarsia.images.save.save`.
    """
    options = options or SaveOptions()
    texts = FileTexts(metadata, parameters, embedded, image.size)
    settings: dict[str, Any] = {"icc_profile": image.info.get("icc_profile")}
    warnings: tuple[str, ...] = ()

    if format == "PNG":
        settings |= _png_settings(texts) | {"compress_level": options.compression}
    elif format == "JPEG":
        more, warnings = _jpeg_settings(texts)
        settings |= more | {"quality": options.quality, "subsampling": 0}
        warnings += _about_jpeg(image)
        image = _without_alpha(image)
    else:
        settings |= {"exif": exif_of(texts, with_density=True), "xmp": embedded.xmp, "quality": options.quality}
        # exact: colors under transparent pixels are kept, as everywhere outside the mask
        settings |= {"lossless": options.lossless, "exact": True, "method": 4}
        if not options.lossless:
            warnings += ("WebP with loss: pixels outside the mask are not exactly the input's",)

    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue(), warnings


def _about_jpeg(image: Image.Image) -> tuple[str, ...]:
    """What is lost in a JPEG."""
    lossy = "JPEG is lossy: pixels outside the mask are not exactly the input's"
    if image.has_transparency_data:
        return lossy, "JPEG has no transparency: the alpha channel was left out"
    return (lossy,)


def _png_settings(texts: FileTexts) -> dict[str, Any]:
    """What Pillow writes into a PNG: texts in chunks of their own, EXIF as it was."""
    chunks = PngImagePlugin.PngInfo()
    if texts.parameters is not None:
        chunks.add_text("parameters", as_text(texts.parameters))
    if texts.metadata is not None:
        chunks.add_text(NAME, to_json(texts.metadata, ascii_only=True))

    embedded = texts.embedded
    if embedded.xmp:
        chunks.add_itxt("XML:com.adobe.xmp", embedded.xmp.decode("utf-8", "replace"))
    settings: dict[str, Any] = {"pnginfo": chunks, "exif": exif_of(texts.of_input)}
    return settings | ({"dpi": embedded.dpi} if embedded.dpi else {})


def _jpeg_settings(texts: FileTexts) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What Pillow writes into a JPEG, where EXIF, XMP and a comment have one segment each; and warnings."""
    settings, warnings = _jpeg_exif(texts)
    embedded = texts.embedded
    if len(embedded.xmp) > _LONGEST_XMP:
        warnings += ("init_image's XMP data are too long for JPEG and were left out",)
    elif embedded.xmp:
        settings["xmp"] = embedded.xmp
    if embedded.dpi:
        settings["dpi"] = embedded.dpi
    return settings, warnings


def _jpeg_exif(texts: FileTexts) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The EXIF segment. What it cannot hold is in the comment's, or is said to be left out."""
    whole = exif_of(texts)
    if len(whole) <= _LONGEST_EXIF:
        return _exif_segment(whole), ()

    json = b"" if texts.metadata is None else to_json(texts.metadata, ascii_only=True).encode()
    settings: dict[str, Any] = {}
    warnings: list[str] = []
    if 0 < len(json) <= _LONGEST_COMMENT:
        settings["comment"] = json
    elif json:
        warnings.append("the metadata are too long for JPEG: only the parameters text was written")

    without_json = replace(texts, metadata=None)
    without_input = replace(without_json, embedded=replace(texts.embedded, exif=b""))
    smaller = (
        (without_json, ""),
        (without_input, "init_image's EXIF data are too long for JPEG and were left out"),
        (texts.of_input, "the metadata are too long for JPEG and were left out"),
    )
    for each, left_out in smaller:
        block = exif_of(each)
        if len(block) <= _LONGEST_EXIF:
            return settings | _exif_segment(block), (*warnings, *filter(None, [left_out]))
    nothing_fits = "the metadata and init_image's EXIF data are too long for JPEG and were left out"
    return settings, (*warnings, nothing_fits)


def _exif_segment(block: bytes) -> dict[str, Any]:
    return {"exif": b"Exif\0\0" + block} if block else {}


def _without_alpha(image: Image.Image) -> Image.Image:
    """RGB (or L): what is to be seen as stored, the rest in the colors around it, none mixed with a background."""
    if image.mode in ("RGB", "L"):
        return image
    rgba = np.asarray(image.convert("RGBA"))
    rgb, alpha = rgba[:, :, :3], rgba[:, :, 3]
    return Image.fromarray(opaque(rgb, alpha))
