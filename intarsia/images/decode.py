"""Encoded images → 8-bit color and transparency, as stored: the container's remainder, decoded by Pillow.

Pillow's decoders are called directly, since ``Image.open`` compares sizes with a limit that is global to the process,
and warns through a mechanism that threads cannot use safely. Sizes are compared here, before anything is decoded.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from intarsia.errors import one_line
from intarsia.images.access import pixel_limit
from intarsia.images.containers import Container, Damaged, netpbm, unpack
from intarsia.images.containers.exif import exif_orientation
from intarsia.images.embedded import NOTHING, EmbeddedMetadata, embedded_in, kept
from intarsia.images.heif_decoder import heif_opener
from intarsia.images.pixel_modes import channels_of, scaled, strips, thrice, transparent

__all__ = ["FORMATS", "Pixels", "check_size", "decode", "decoders", "is_deep", "opened"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
"""Pillow's decoders that are used. An allowlist: that of EPS, for one, starts Ghostscript. HEIC has one of its own."""

# Their modules; Pillow's others take longer to import than these.
_PLUGINS = ("Png", "Jpeg", "WebP", "Gif", "Bmp", "Tiff", "Ppm", "Avif", "Jpeg2K", "Ico")

# A row costs a decoder some bytes however narrow it is.
_LONGEST_SIDE = 1 << 20

# 16-bit color is delivered as its upper bytes. Decoded with the other byte order, it is its lower ones.
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_DEEP_MODES = {f"{mode};16{order}" for mode in ("RGB", "RGBX", "RGBA") for order in _OTHER_ORDER}
_DEEP_GRAY_ALPHA = "LA;16B"


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A decoded image as stored, not yet upright.

    Attributes:
        rgb: uint8 ``[H, W, 3]``; alpha: uint8 ``[H, W]``, or None.
        is_gray: all three channels are known to be equal.
        profile: the color profile, whatever it describes.
        mode: Pillow's name of what it was stored as.
        embedded: what else the file says of the image.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None
    is_gray: bool
    orientation: int
    profile: bytes | None
    mode: str
    embedded: EmbeddedMetadata = NOTHING


def check_size(size: tuple[int, int], max_pixels: int | None, cost: int = 1) -> None:
    """Raises :class:`Damaged` where an image has no pixels, or more than are allowed; of costly ones fewer are."""
    width, height = size
    limit = pixel_limit(max_pixels) // cost
    if width <= 0 or height <= 0:
        raise Damaged(f"has no pixels ({width}x{height})")

    if width * height > limit:
        share = ""
        if cost > 1:
            share = f" for this format, 1/{cost} of that for others"
        raise Damaged(f"has {width}x{height} pixels; the limit is {limit:.0f}{share} (max_pixels, --max-pixels)")
    if max(size) > _LONGEST_SIDE:
        raise Damaged(f"has {width}x{height} pixels; a side of more than {_LONGEST_SIDE} is not read")


def decode(field: str, data: bytes, notes: list[str], max_pixels: int | None) -> Pixels:
    """Decode a file's first image.

    Raises:
        Damaged: for a reason that can be named; and whatever a decoder raises that is fed with damaged data.
    """
    if data[:2] in netpbm.MAGIC:
        return _from_netpbm(field, data, notes, max_pixels)

    container = unpack(data)
    if container.size is not None:
        check_size(container.size, max_pixels, container.cost)
    if container.has_more:
        notes.append(f"{field}: there is more than one frame or page; the first is used")
    notes += [f"{field}: {note}" for note in container.notes]

    with opened(container) as image:
        check_size(image.size, max_pixels, container.cost)  # of some files only the decoder can tell it
        _allocate(image)
        orientation, profile = _orientation_and_profile(image, container)
        size = image.size
        rgb, alpha, is_gray = _channels(field, image, container, notes)
        if image.size != size:
            raise Damaged(f"says that it has {size[0]}x{size[1]} pixels, and has {image.width}x{image.height}")
        return Pixels(
            rgb=rgb,
            alpha=alpha,
            is_gray=is_gray,
            orientation=orientation,
            profile=profile,
            mode=image.mode,
            embedded=_embedded(field, container, image, notes),
        )


def _embedded(field: str, container: Container, image: Image.Image, notes: list[str]) -> EmbeddedMetadata:
    """From the container, or of AVIF and HEIC from their decoders."""
    more: list[str] = []
    if container.kind in ("AVIF", "HEIF"):
        embedded = embedded_in(image, more)
    else:
        embedded = kept(container.exif, container.xmp, container.dpi, more)
    notes += [f"{field}: {note}" for note in more]
    return embedded


def _orientation_and_profile(image: ImageFile.ImageFile, container: Container) -> tuple[int, bytes | None]:
    """From the container, or of AVIF and HEIC from their decoders; the image gets the profile too, to convert by."""
    if container.kind == "HEIF":  # its decoder has turned it upright
        return 1, image.info.get("icc_profile")
    if container.kind == "AVIF":
        orientation = None
        if "exif" in image.info:
            orientation = exif_orientation(image.info["exif"])
        return orientation or 1, image.info.get("icc_profile")

    if container.icc_profile:
        image.info["icc_profile"] = container.icc_profile
    return container.orientation, container.icc_profile


def _channels(
    field: str, image: ImageFile.ImageFile, container: Container, notes: list[str]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, bool]:
    """Color and transparency, and whether it is gray."""
    rawmode = _rawmode(image)
    is_deep_gray = rawmode == _DEEP_GRAY_ALPHA
    if is_deep_gray or rawmode in _DEEP_MODES:
        notes.append(f"{field}: 16 bits a channel were scaled to 8")
        rgb, alpha = _from_deep(image, container)
        return rgb, alpha, is_deep_gray

    key, bits = container.key, container.bits
    image.load()
    has_more_bits = bits > 8 or is_deep(image, rawmode)
    if has_more_bits and image.mode in ("RGB", "RGBA", "LA", "CMYK"):
        notes.append(f"{field}: {max(bits, 9)} bits a channel were cut to 8")
    if key is not None and image.mode == "I;16":
        image.info["transparency"] = key[0]

    rgb, alpha = channels_of(image, notes, field, bits)
    if key is not None and image.mode in ("1", "L", "RGB"):
        highest = (1 << bits) - 1
        levels = tuple(value * 255 // highest for value in key)
        alpha = _keyed(rgb, levels)

    is_gray = image.mode == "LA" or rgb.strides[2] == 0
    return rgb, alpha, is_gray


def _keyed(rgb: NDArray[np.uint8], key: tuple[int, ...]) -> NDArray[np.uint8]:
    """Alpha of an image in which one color is transparent; of a gray one, one level."""
    samples = rgb if len(key) == 3 else rgb[:, :, 0]
    height, width = samples.shape[:2]
    alpha = np.empty((height, width), np.uint8)
    for rows in strips(width, height):
        alpha[rows] = transparent(samples[rows], key)
    return alpha


def is_deep(image: Image.Image, rawmode: str | None = None) -> bool:
    """Whether a file that is not loaded yet has more than 8 bits a channel of color."""
    rawmode = _rawmode(image) if rawmode is None else rawmode
    return ";16" in rawmode and image.mode in ("RGB", "RGBA", "CMYK")


def _rawmode(image: Image.Image) -> str:
    """How a file's samples lie, in Pillow's words; "" where it does not say."""
    tiles = getattr(image, "tile", ())
    if not tiles:
        return ""

    args = tiles[0][3]
    if isinstance(args, str):
        return args
    if not args:
        return ""
    return str(args[0])


def _from_deep(image: ImageFile.ImageFile, container: Container) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """16-bit color, scaled: its upper bytes and its lower ones are decoded one after the other."""
    if _rawmode(image) == _DEEP_GRAY_ALPHA:
        _set_rawmode(image, "RGBA")  # each pixel's four bytes as they are
        image.load()
        return _from_gray_alpha(image)

    rgb = np.empty((image.height, image.width, 3), np.uint8)
    alpha = None
    if image.mode == "RGBA" or container.key:
        alpha = np.empty((image.height, image.width), np.uint8)

    with opened(container) as lower:
        rawmode = _rawmode(lower)
        mode, order = rawmode[:-1], rawmode[-1]
        _set_rawmode(lower, mode + _OTHER_ORDER[order])
        image.load()
        lower.load()

        for rows in strips(*image.size):
            box = (0, rows.start, image.width, rows.stop)
            upper_bytes = np.asarray(image.crop(box)).astype(np.uint16)
            lower_bytes = np.asarray(lower.crop(box))
            values = upper_bytes << 8 | lower_bytes

            colors = values[:, :, :3]
            rgb[rows] = scaled(colors, 65535)
            if alpha is not None and container.key:
                alpha[rows] = transparent(colors, container.key)
            elif alpha is not None:
                alpha[rows] = scaled(values[:, :, 3], 65535)
    return rgb, alpha


def _from_gray_alpha(image: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    gray, alpha = np.empty((2, image.height, image.width), np.uint8)
    for rows in strips(*image.size):
        box = (0, rows.start, image.width, rows.stop)
        pixel_bytes = np.asarray(image.crop(box)).astype(np.uint16)
        gray_upper, gray_lower, alpha_upper, alpha_lower = np.moveaxis(pixel_bytes, 2, 0)
        gray[rows] = scaled(gray_upper << 8 | gray_lower, 65535)
        alpha[rows] = scaled(alpha_upper << 8 | alpha_lower, 65535)
    return thrice(gray), alpha


def _set_rawmode(image: ImageFile.ImageFile, rawmode: str) -> None:
    """Have the decoder read the samples in another order of bytes."""
    tiles = []
    for tile in image.tile:
        args = _with_rawmode(tile[3], rawmode)
        tiles.append(tile._replace(args=args))
    image.tile = tiles


def _with_rawmode(args: Any, rawmode: str) -> Any:
    """A tile's arguments: the raw mode alone, or first among others."""
    if isinstance(args, str):
        return rawmode
    return (rawmode, *(args or ())[1:])


def _from_netpbm(field: str, data: bytes, notes: list[str], max_pixels: int | None) -> Pixels:
    header = netpbm.header_of(data)
    check_size((header.width, header.height), max_pixels)
    samples = netpbm.samples_of(data, header)

    if samples.dtype.kind == "f":
        image = Image.fromarray(samples)
        rgb, alpha = channels_of(image, notes, field)
        return Pixels(rgb=rgb, alpha=alpha, is_gray=True, orientation=1, profile=None, mode="F")

    if header.highest > 255:
        notes.append(f"{field}: 16 bits a channel were scaled to 8")
    levels = scaled(samples, header.highest)
    if levels.ndim == 3:
        return Pixels(rgb=levels, alpha=None, is_gray=False, orientation=1, profile=None, mode="RGB")
    return Pixels(rgb=thrice(levels), alpha=None, is_gray=True, orientation=1, profile=None, mode="L")


@contextmanager
def opened(container: Container) -> Iterator[ImageFile.ImageFile]:
    """The file opened by its decoder: its header has been read, its pixels have not."""
    names = [container.kind] if container.kind else _recognized(container.data[:16])
    if not names:
        raise Damaged("")

    factory: Any = heif_opener() if names[0] == "HEIF" else decoders()[names[0]][0]
    try:
        image: ImageFile.ImageFile = factory(io.BytesIO(container.data), "")
    except SyntaxError as exc:  # a header that the decoder makes nothing of
        raise Damaged(f"is damaged: {one_line(exc)}") from exc
    try:
        yield image
    finally:
        image.close()


def _allocate(image: ImageFile.ImageFile) -> None:
    """Memory for a TIFF's pixels, for which its decoder would ask only after a look at Pillow's own limit."""
    if image.format == "TIFF":
        allocated = Image.new(image.mode, image.size)
        image.im = allocated.im


def _recognized(prefix: bytes) -> list[str]:
    recognized = []
    for name, (_, recognizes) in decoders().items():
        # PPM is read by containers.netpbm.
        if name != "PPM" and recognizes(prefix) is True:
            recognized.append(name)
    return recognized


@cache
def decoders() -> dict[str, Any]:
    """Those of FORMATS that this build of Pillow has (AVIF, for one, is optional), imported at the first call."""
    for plugin in _PLUGINS:
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    return {name: Image.OPEN[name] for name in FORMATS if name in Image.OPEN}
