"""Pillow's modes and numpy's types as 8-bit colour and transparency, scaled, never clipped."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from inlay.errors import SourceError

__all__ = ["channels_of", "levels_of", "one_line", "profile_of"]

Bytes2D = NDArray[np.uint8]

# The field whose colours say nothing but how bright they are: they are not kept, nor hashed.
_MASK = "mask_image"


def levels_of(field: str, array: NDArray[Any]) -> Bytes2D:
    """An array's values as 0…255, by its type."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return array.astype(np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return _from_16_bit(array)
    if array.dtype.kind != "f":
        raise SourceError(field, None, f"an array must be uint8, uint16, bool or float, not {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SourceError(field, None, "a float array must be finite; it has NaN or infinite values")
    if low < 0 or high > 1:
        raise SourceError(field, None, f"a float array must lie in 0…1, not {low:.4g}…{high:.4g}")
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def channels_of(image: Image.Image, notes: list[str], field: str) -> tuple[Bytes2D, Bytes2D | None]:
    """Colour and transparency of a loaded image, as stored (not yet upright); of a gray one, a plane three times."""
    mode = image.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        values = np.asarray(image)
        gray, alpha = _deep_gray(image, values, field), None
        key = image.info.get("transparency")
        if isinstance(key, int):
            alpha = np.where(values == key, 0, 255).astype(np.uint8)
        notes.append(f"{field}: mode {mode} was scaled to 8 bits")
        return np.repeat(gray[:, :, None], 3, axis=2), alpha
    if mode == "CMYK":
        return np.asarray(_from_cmyk(image, notes, field)), None
    if mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if mode == "La" else "RGBA")
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return rgba[:, :, :3].copy(), rgba[:, :, 3].copy()
    if mode in ("1", "L") or (mode == "RGB" and field == _MASK):
        plane = np.asarray(image if mode == "L" else image.convert("L"))
        return np.broadcast_to(plane[:, :, None], (*plane.shape, 3)), None
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), None


def _deep_gray(image: Image.Image, values: NDArray[Any], field: str) -> Bytes2D:
    """Modes I;16*, I and F as 0…255: scaled by what the values can be, never clipped."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(values)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SourceError(field, None, "the image has NaN or infinite values")
    top = (1 if image.mode == "F" else 255, 255, 65535)
    if image.mode == "I" and image.format is not None:
        top = (65535, 65535, 65535)  # a file: decoders use mode I for 16 bits per pixel
    full = next((value for value in top if high <= value), 0)
    if low < 0 or not full:
        raise SourceError(field, None, f"mode {image.mode} must lie in 0…65535, not {low:.6g}…{high:.6g}")
    return np.rint(values.astype(np.float64) * (255 / full)).astype(np.uint8)


def _from_16_bit(values: NDArray[Any]) -> Bytes2D:
    """0…65535 → 0…255, rounded: 257 = 65535 / 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_cmyk(image: Image.Image, notes: list[str], field: str) -> Image.Image:
    """CMYK → sRGB through the image's own profile where it has a usable one."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            srgb = ImageCms.createProfile("sRGB")
            turned = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
            if turned is not None:
                return turned
        except (ImageCms.PyCMSError, OSError) as exc:
            notes.append(f"{field}: the CMYK profile is not usable ({one_line(exc)})")
    notes.append(f"{field}: CMYK was converted to RGB without a colour profile")
    return image.convert("RGB")


def profile_of(image: Image.Image, notes: list[str], field: str) -> bytes | None:
    """The colour profile, if it describes RGB: bytes 16…19 of an ICC header name its colour space."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile or image.mode == "CMYK":
        return None
    if profile[16:20] == b"RGB ":
        return profile
    notes.append(f"{field}: a colour profile that is not for RGB was left out")
    return None


def one_line(exc: BaseException) -> str:
    """A foreign error's text on one line."""
    return " ".join(str(exc).split()) or type(exc).__name__
