"""An image file before it is decoded, and the limits that are common to all kinds of files."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

__all__ = ["MOST_PARTS", "MOST_PROFILE_BYTES", "Container", "Damaged", "inflated", "usable_profile"]

MOST_PARTS = 100_000
"""Chunks, segments or blocks of a file. An image of 512 MiB in the usual pieces of 8 KiB has 65,536."""

MOST_PROFILE_BYTES = 16 * 1024 * 1024
"""Largest color profile: what JPEG can hold (255 segments), and so what any other file of it may have."""


class Damaged(Exception):
    """Why a file is not read, in words that follow the file's name: "is truncated: …"."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """A file without what is not needed for its first image, and what was found in it.

    Attributes:
        data: for the decoder.
        kind: the decoder's name (Pillow's); "" where it has to be found out.
        size: ``(width, height)`` as stored; None where only the decoder can tell.
        has_more: there are more frames or pages than the first.
        icc_profile: the color profile, not examined.
        orientation: EXIF's, 1 … 8.
        bits: of a channel, where they are more than the decoder delivers.
        cost: how many times the memory of other images its decoder needs; it may have so many times fewer pixels.
        key: the color that is transparent, one sample or three of ``bits``.
        exif: EXIF's block, from its TIFF header on or the word before it; b"" where there is none that can be read.
        xmp: the XMP packet; b"" where there is none.
        dpi: pixels per inch across and down; None where the file does not say.
        notes: what was left out and may be missed.
    """

    data: bytes
    kind: str = ""
    size: tuple[int, int] | None = None
    has_more: bool = False
    icc_profile: bytes | None = None
    orientation: int = 1
    bits: int = 8
    cost: int = 1
    key: tuple[int, ...] | None = None
    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def inflated(data: bytes, most: int) -> bytes | None:
    """zlib data decompressed; None where they are damaged or would be more than ``most`` bytes."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, most + 1)
    except zlib.error:
        return None
    return plain if stream.eof and len(plain) <= most else None


def usable_profile(profile: bytes | None, notes: list[str]) -> bytes | None:
    """A color profile, or None with a note where there is more of it than is read."""
    if profile is not None and len(profile) > MOST_PROFILE_BYTES:
        notes.append(f"a color profile of more than {MOST_PROFILE_BYTES} bytes was left out")
        return None
    return profile or None
