"""Encoding images as PNG, JPEG or WebP, with their metadata: bytes, and warnings of what is lost."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from intarsia.errors import OutputError
from intarsia.former_name import NAME
from intarsia.images.fill import opaque
from intarsia.images.metadata import as_text, exif, to_json
from intarsia.images.output_names import Format

__all__ = ["SaveOptions", "encode"]

# A JPEG segment holds 65,535 bytes, two of them its length, six the word "Exif".
_LONGEST_EXIF = 65535 - 8


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
    options: SaveOptions | None = None,
) -> tuple[bytes, tuple[str, ...]]:
    """The encoded file and warnings; the image's own text is not copied.

    Args:
        metadata, parameters, options: as in :func:`intarsia.images.save.save`.
    """
    options = options or SaveOptions()
    settings: dict[str, Any] = {"icc_profile": image.info.get("icc_profile")}
    if format == "PNG":
        warnings: tuple[str, ...] = ()
        settings |= {"compress_level": options.compression, "pnginfo": _png_text(metadata, parameters)}
    else:
        block, warnings = _exif(format, metadata, parameters)
        settings |= {"quality": options.quality, "exif": block}

    if format == "JPEG":
        settings |= {"subsampling": 0}
        warnings += _about_jpeg(image)
        image = _without_alpha(image)
    elif format == "WEBP":
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


def _png_text(metadata: Mapping[str, Any] | None, parameters: str | None) -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    if parameters is not None:
        text.add_text("parameters", as_text(parameters))
    if metadata is not None:
        text.add_text(NAME, to_json(metadata, ascii_only=True))
    return text


def _exif(format: Format, metadata: Mapping[str, Any] | None, parameters: str | None) -> tuple[bytes, tuple[str, ...]]:
    """The EXIF block; where JPEG cannot hold it, without the JSON, then without anything."""
    if metadata is None and parameters is None:
        return b"", ()
    block = exif(parameters, metadata)
    if format != "JPEG" or len(block) <= _LONGEST_EXIF:
        return block, ()

    block = exif(parameters, None)
    if len(block) <= _LONGEST_EXIF:
        return block, ("the metadata are too long for JPEG: only the parameters text was written",)
    return b"", ("the metadata are too long for JPEG and were left out",)


def _without_alpha(image: Image.Image) -> Image.Image:
    """RGB (or L): what is to be seen as stored, the rest in the colors around it, none mixed with a background."""
    if image.mode in ("RGB", "L"):
        return image
    rgba = np.asarray(image.convert("RGBA"))
    rgb, alpha = rgba[:, :, :3], rgba[:, :, 3]
    return Image.fromarray(opaque(rgb, alpha))
