"""Pillow's modes and numpy's types as 8-bit color and transparency, scaled, never clipped, a strip at a time.

A strip is converted, then the next, so that beside the decoded image and the finished one there is no third.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from intarsia.errors import SourceError, one_line

__all__ = ["channels_of", "levels_of", "profile_of", "scaled", "strips", "thrice", "transparent"]

Bytes2D = NDArray[np.uint8]

# The field whose colors say nothing but how bright they are: they are not kept, nor hashed. Unless all are darker than
# _DARK, but not their brightest channel: strokes in red or blue.
_MASK = "mask_image"
_DARK = 128

# Pixels that are converted at once.
_STRIP = 1 << 18


def strips(width: int, height: int) -> Iterator[slice]:
    """All rows, a few at a time."""
    rows = max(1, _STRIP // max(1, width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        yield slice(top, bottom)


def levels_of(field: str, array: NDArray[Any], notes: list[str]) -> Bytes2D:
    """An array's values as 0…255, by its type."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return array.astype(np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        notes.append(f"{field}: 16 bits a channel were scaled to 8")
        return scaled(array, 65535)
    if array.dtype.kind != "f":
        raise SourceError(field, None, f"an array must be uint8, uint16, bool or float, not {array.dtype}")
    return _from_floats(field, array)


def _from_floats(field: str, array: NDArray[Any]) -> Bytes2D:
    """Values between 0 and 1 as 0…255, rounded."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SourceError(field, None, "a float array must be finite; it has NaN or infinite values")
    if low < 0 or high > 1:
        raise SourceError(field, None, f"a float array must lie in 0…1, not {low:.4g}…{high:.4g}")

    height, width = array.shape[:2]
    levels = np.empty(array.shape, np.uint8)
    for rows in strips(width, height):
        values = array[rows].astype(np.float32)
        levels[rows] = np.rint(values * 255)
    return levels


def scaled(values: NDArray[Any], highest: int) -> Bytes2D:
    """Whole numbers 0 … ``highest``, ``[height, width, …]``, as uint8 0 … 255 of the same shape, rounded."""
    height, width = values.shape[:2]
    levels = np.empty(values.shape, np.uint8)
    for rows in strips(width, height):
        doubled = values[rows].astype(np.uint32) * (2 * 255)
        levels[rows] = (doubled + highest) // (2 * highest)
    return levels


def channels_of(image: Image.Image, notes: list[str], field: str, bits: int = 8) -> tuple[Bytes2D, Bytes2D | None]:
    """Color and transparency of a loaded image, as stored (not yet upright); of a gray one, a plane three times.

    Args:
        bits: of a sample in the file, where they are fewer than those of its mode.
    """
    mode = image.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        gray, alpha = _deep_gray(image, field, bits)
        notes.append(f"{field}: mode {mode} was scaled to 8 bits")
        return thrice(gray), alpha
    if mode == "CMYK":
        return _from_cmyk(image, notes, field), None
    if image.has_transparency_data or mode in ("La", "RGBa"):  # these two are premultiplied
        return _with_alpha(image)

    if mode == "RGB" and field == _MASK:
        gray = _converted(image, "L")
        if gray.max() >= _DARK or _converted(image, "RGB").max() < _DARK:
            return thrice(gray), None
    elif mode in ("1", "L"):
        return thrice(_converted(image, "L")), None
    return _converted(image, "RGB"), None


def transparent(samples: NDArray[Any], key: tuple[int, ...]) -> Bytes2D:
    """Alpha of ``[h, w]`` or ``[h, w, 3]`` whose color ``key`` is transparent: 0 there, 255 elsewhere."""
    is_key = samples == np.asarray(key, samples.dtype)
    if samples.ndim == 3:
        is_key = is_key.all(axis=2)
    return np.where(is_key, np.uint8(0), np.uint8(255))


def thrice(plane: Bytes2D) -> Bytes2D:
    """One plane as three, without more memory."""
    height, width = plane.shape
    return np.broadcast_to(plane[:, :, None], (height, width, 3))


def _pieces(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """The image in strips, each an image of its own."""
    for rows in strips(*image.size):
        box = (0, rows.start, image.width, rows.stop)
        yield rows, image.crop(box)


def _converted(image: Image.Image, mode: str) -> Bytes2D:
    """The image as ``[h, w]`` (mode L) or ``[h, w, 3]`` (RGB)."""
    shape: tuple[int, ...] = (image.height, image.width)
    if mode == "RGB":
        shape = (*shape, 3)

    pixels = np.empty(shape, np.uint8)
    for rows, piece in _pieces(image):
        if piece.mode != mode:
            piece = piece.convert(mode)
        strip = pixels[rows]
        strip[:] = _packed(piece, mode).reshape(strip.shape)
    return pixels


def _packed(image: Image.Image, rawmode: str) -> Bytes2D:
    """An image's samples, or those of some channels: four times as fast as ``numpy.asarray``."""
    samples = image.tobytes("raw", rawmode)
    return np.frombuffer(samples, np.uint8)


def _with_alpha(image: Image.Image) -> tuple[Bytes2D, Bytes2D]:
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    alpha = np.empty((image.height, image.width), np.uint8)

    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    for rows, piece in _pieces(image):
        if straight is not None:
            piece = piece.convert(straight)
        if piece.mode != "RGBA":
            piece = piece.convert("RGBA")

        colors = rgb[rows]
        colors[:] = _packed(piece, "RGB").reshape(colors.shape)
        transparency = alpha[rows]
        transparency[:] = _packed(piece, "A").reshape(transparency.shape)
    return rgb, alpha


def _deep_gray(image: Image.Image, field: str, bits: int) -> tuple[Bytes2D, Bytes2D | None]:
    """Modes I;16*, I and F as 0…255, scaled by what the values can be, never clipped; alpha where a value is keyed."""
    if not image.mode.startswith("I;16"):
        top = _highest(image, field)
    elif 8 < bits < 16:
        top = (1 << bits) - 1
    else:
        top = 65535

    gray = np.empty((image.height, image.width), np.uint8)
    alpha = None
    key = image.info.get("transparency")
    if isinstance(key, int):
        alpha = np.empty_like(gray)

    for rows, piece in _pieces(image):
        values = np.asarray(piece)
        if image.mode in ("I", "F"):
            levels = values.astype(np.float64) * (255 / top)
            gray[rows] = np.rint(levels)
        else:
            gray[rows] = scaled(values, top)
        if alpha is not None and isinstance(key, int):
            alpha[rows] = transparent(values, (key,))
    return gray, alpha


def _highest(image: Image.Image, field: str) -> int:
    """What the value of white is in modes I and F."""
    lows, highs = [], []
    for _, piece in _pieces(image):
        values = np.asarray(piece)
        lows.append(float(values.min()))
        highs.append(float(values.max()))

    low, high = min(lows), max(highs)
    if not np.isfinite(lows + highs).all():
        raise SourceError(field, None, "the image has NaN or infinite values")
    if low < 0 or high > 65535:
        raise SourceError(field, None, f"mode {image.mode} must lie in 0…65535, not {low:.6g}…{high:.6g}")

    is_file = image.format is not None
    if image.mode == "I" and is_file:
        return 65535  # decoders use mode I for 16 bits per pixel
    if image.mode == "F" and high <= 1:
        return 1
    return 255 if high <= 255 else 65535


def _from_cmyk(image: Image.Image, notes: list[str], field: str) -> Bytes2D:
    """CMYK → sRGB through the image's own profile where it has a usable one."""
    transform = None
    profile = image.info.get("icc_profile")
    if profile:
        try:
            srgb = ImageCms.createProfile("sRGB")
            transform = ImageCms.buildTransform(io.BytesIO(profile), srgb, "CMYK", "RGB")
        except (ImageCms.PyCMSError, OSError) as exc:
            notes.append(f"{field}: the CMYK profile is not usable ({one_line(exc)})")

    if transform is None:
        notes.append(f"{field}: CMYK was converted to RGB without a color profile")
        return _converted(image, "RGB")

    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows, piece in _pieces(image):
        in_srgb = ImageCms.applyTransform(piece, transform)
        pixels[rows] = np.asarray(in_srgb)
    return pixels


def profile_of(profile: object, mode: str, notes: list[str], field: str) -> bytes | None:
    """The color profile, if it describes RGB: bytes 16…19 of an ICC header name its color space."""
    if not isinstance(profile, bytes) or not profile or mode == "CMYK":
        return None
    if profile[16:20] == b"RGB ":
        return profile
    notes.append(f"{field}: a color profile that is not for RGB was left out")
    return None
