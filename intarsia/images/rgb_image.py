"""An image in the one form that everything else works on: 8-bit RGB, upright, with its transparency.

Orientation is applied, palettes, CMYK, 16-bit and floating-point modes are converted explicitly, and alpha
and an RGB color profile are kept for the output. What is lost in a conversion is in ``RgbImage.warnings``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.errors import IntarsiaError, OutOfMemory, SourceError, one_line
from intarsia.images.containers import Damaged
from intarsia.images.decode import FORMATS, Pixels, check_size, decode, is_deep
from intarsia.images.embedded import NOTHING, EmbeddedMetadata, embedded_in
from intarsia.images.pixel_modes import channels_of, levels_of, profile_of, thrice

__all__ = ["FORMATS", "RgbImage", "from_array", "from_bytes", "from_image"]

Bytes2D = NDArray[np.uint8]

_READ = "PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, AVIF, HEIC, JPEG 2000 or ICO"
_ORIENTATION = 0x0112

# EXIF 2.32, table of tag 0x0112: how the stored rows and columns become an upright image.
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
    8: lambda a: np.rot90(a),
}


@dataclass(frozen=True, eq=False)
class RgbImage:
    """An upright 8-bit image; the arrays are read-only.

    Attributes:
        rgb: uint8 ``[H, W, 3]``; for grayscale, a broadcast view of one plane.
        alpha: uint8 ``[H, W]``, 255 opaque, or None where the source has no transparency.
        icc_profile: the source's RGB color profile, to be written with the output.
        path: the file it came from, if it came from one.
        warnings: what the caller should know about the conversion.
        is_gray: all three channels are known to be equal.
        embedded: EXIF, XMP and density of the source, to be written with the output.
    """

    rgb: Bytes2D
    alpha: Bytes2D | None = None
    _: KW_ONLY
    icc_profile: bytes | None = None
    path: str | None = None
    warnings: tuple[str, ...] = ()
    is_gray: bool = False
    embedded: EmbeddedMetadata = NOTHING

    def __post_init__(self) -> None:
        if self.is_gray:
            plane = _read_only(self.rgb[:, :, 0])
            rgb = thrice(plane)
        else:
            rgb = _read_only(self.rgb)
        object.__setattr__(self, "rgb", rgb)

        if self.alpha is not None:
            object.__setattr__(self, "alpha", _read_only(self.alpha))

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in pixels."""
        height, width, _ = self.rgb.shape
        return width, height

    @property
    def stem(self) -> str | None:
        """The file's name without folder and extension; None where there is no file."""
        if not self.path:
            return None
        return PurePath(self.path).stem

    @cached_property
    def sha256(self) -> str:
        """Hash of the normalized content (size, colors, alpha): equal images, equal hashes, gray ones apart."""
        colors = self.gray if self.is_gray else self.rgb
        head = (colors.shape, self.alpha is not None)
        digest = hashlib.sha256(repr(head).encode())
        digest.update(colors.data)
        if self.alpha is not None:
            digest.update(self.alpha.data)
        return digest.hexdigest()

    @cached_property
    def gray(self) -> Bytes2D:
        """Luma, uint8 ``[H, W]`` (ITU-R BT.601, in integers: equal channels give exactly their value)."""
        if self.is_gray:
            return self.rgb[:, :, 0]
        luma = Image.fromarray(self.rgb).convert("L")
        return np.asarray(luma)

    def to_pil(self) -> Image.Image:
        """A new RGB or RGBA ``PIL.Image`` that carries the color profile in ``info``."""
        planes = self.rgb
        if self.alpha is not None:
            planes = np.dstack((self.rgb, self.alpha))
        image = Image.fromarray(planes)
        if self.icc_profile:
            image.info["icc_profile"] = self.icc_profile
        return image


def _read_only(array: Bytes2D) -> Bytes2D:
    """The array, contiguous; as a view, so that the flags of the caller's array stay."""
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view


def from_bytes(field: str, data: bytes, label: str, path: str | None = None, max_pixels: int | None = None) -> RgbImage:
    """Decode an encoded image. ``label`` says in an error what the bytes were ("'photo.png'", "the bytes").

    Args:
        max_pixels: see :func:`intarsia.images.access.pixel_limit`.

    Raises:
        SourceError: empty, not an image, truncated or damaged, or too many pixels.
        OutOfMemory: there is no memory to decode it in.
    """
    if not data:
        raise SourceError(field, path, f"{label} is empty (0 bytes)")

    notes: list[str] = []
    with _named(field, label, path, data):
        pixels = decode(field, data, notes, max_pixels)
        profile = profile_of(pixels.profile, pixels.mode, notes, field)
        return _upright(pixels, profile, notes, path)


def from_image(
    field: str, image: Image.Image, label: str = "the image", path: str | None = None, max_pixels: int | None = None
) -> RgbImage:
    """Normalize a ``PIL.Image`` of any mode; the image itself is left as it is.

    Raises:
        SourceError: truncated or damaged, empty, too many pixels, or values that mean nothing.
        OutOfMemory: there is no memory to decode it in.
    """
    notes: list[str] = []
    with _named(field, label, path):
        check_size(image.size, max_pixels)
        has_more = getattr(image, "is_animated", False)
        if has_more and image.format != "MPO":  # MPO: a photograph and its previews
            number = image.tell() + 1
            notes.append(f"{field}: there is more than one frame or page; number {number} is used")
        if is_deep(image):
            notes.append(f"{field}: 16 bits a channel were cut to 8")

        image.load()
        rgb, alpha = channels_of(image, notes, field)
        profile = profile_of(image.info.get("icc_profile"), image.mode, notes, field)
        pixels = Pixels(
            rgb=rgb,
            alpha=alpha,
            is_gray=image.mode == "LA" or rgb.strides[2] == 0,
            orientation=_orientation(image, notes, field),
            profile=profile,
            mode=image.mode,
            embedded=_embedded(image, notes, field),
        )
        return _upright(pixels, profile, notes, path)


def _upright(pixels: Pixels, profile: bytes | None, notes: list[str], path: str | None) -> RgbImage:
    rgb, alpha = pixels.rgb, pixels.alpha
    turn = _UPRIGHT.get(pixels.orientation)
    if turn is not None:
        rgb = turn(rgb)
        alpha = None if alpha is None else turn(alpha)

    return RgbImage(
        rgb,
        alpha,
        icc_profile=profile,
        path=path,
        warnings=tuple(notes),
        is_gray=pixels.is_gray,
        embedded=pixels.embedded,
    )


def _embedded(image: Image.Image, notes: list[str], field: str) -> EmbeddedMetadata:
    more: list[str] = []
    embedded = embedded_in(image, more)
    notes += [f"{field}: {note}" for note in more]
    return embedded


@contextmanager
def _named(field: str, label: str, path: str | None, data: bytes = b"") -> Iterator[None]:
    """Turns every error of decoding into one that names field and file."""
    try:
        yield
    except IntarsiaError:
        raise
    except Damaged as exc:
        reason = str(exc) or f"is not an image but {_kind(data)}; {_READ} is read"
        raise SourceError(field, path, f"{label} {reason}") from exc
    except Exception as exc:  # a decoder fed with damaged data raises anything at all
        if isinstance(exc, MemoryError) or "out of memory" in str(exc).lower():
            raise OutOfMemory(f"{field}: {label} cannot be decoded: this machine's memory has run out") from exc
        raise SourceError(field, path, f"{label} is truncated or damaged: {one_line(exc)}") from exc


def from_array(field: str, array: NDArray[Any], max_pixels: int | None = None) -> RgbImage:
    """Normalize ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` or ``[H, W, 4]`` of uint8, uint16, bool or 0…1.

    Raises:
        SourceError: another shape or type, no pixels, non-finite values, or floats outside 0…1.
    """
    is_color = array.ndim == 3 and array.shape[2] in (1, 3, 4)
    if array.ndim != 2 and not is_color:
        shapes = "[H,W], [H,W,1], [H,W,3] or [H,W,4]"
        raise SourceError(field, None, f"an array must be {shapes}, not {array.shape}")
    if not array.size:
        raise SourceError(field, None, f"an array must have pixels, not shape {array.shape}")

    notes: list[str] = []
    with _named(field, "the array", None):
        height, width = array.shape[:2]
        check_size((width, height), max_pixels)
        levels = levels_of(field, array, notes)
        if levels.ndim == 2:
            levels = levels[:, :, None]

        channels = levels.shape[2]
        if channels == 1:
            rgb = np.repeat(levels, 3, axis=2)
        else:
            rgb = levels[:, :, :3].copy()
        alpha = levels[:, :, 3].copy() if channels == 4 else None
        return RgbImage(rgb, alpha, warnings=tuple(notes))


def _orientation(image: Image.Image, notes: list[str], field: str) -> int:
    """EXIF orientation 1…8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception as exc:  # noqa: BLE001 - a parser fed with damaged data raises anything at all
        notes.append(f"{field}: the EXIF data cannot be read and were ignored ({one_line(exc)})")
        return 1
    return value if isinstance(value, int) else 1


def _kind(data: bytes) -> str:
    """A guess at data that no decoder recognizes, in words."""
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if b"<svg" in head:
        return "an SVG drawing"
    if head.startswith((b"%!ps", b"%pdf")):
        return "a PostScript or PDF document"

    try:
        text = data[:512].decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text and (text.isprintable() or "\n" in text):
        return "text"
    return f"data of an unknown kind ({len(data)} bytes)"
