"""The orientation in EXIF and XMP data, the only thing that decides how an image is read."""

from __future__ import annotations

import re
import struct

__all__ = ["exif_orientation", "xmp_orientation"]

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_XMP = re.compile(rb'tiff:Orientation(?:=["\']|>)([1-8])')
_XMP_BYTES = 1 << 20


def exif_orientation(block: bytes) -> int | None:
    """1 … 8; None where the block has none.

    Args:
        block: EXIF data, a TIFF header first; the word "Exif" before it may be there.

    Raises:
        ValueError: it is no EXIF data, or ends early.
    """
    start = 6 if block.startswith(b"Exif\0") else 0
    mark = block[start : start + 2]
    order = {b"II": "<", b"MM": ">"}.get(mark)
    if order is None:
        raise ValueError("no byte order")

    try:
        (directory,) = struct.unpack_from(f"{order}4xI", block, start)
        position = start + directory
        (count,) = struct.unpack_from(f"{order}H", block, position)
        for index in range(count):
            entry = position + 2 + 12 * index
            tag, kind, _ = struct.unpack_from(f"{order}HHI", block, entry)
            if tag == _ORIENTATION:
                form = {_SHORT: "H", _LONG: "I"}.get(kind, "B")
                (value,) = struct.unpack_from(order + form, block, entry + 8)
                return value if 1 <= value <= 8 else None
    except struct.error as exc:
        raise ValueError("it ends early") from exc
    return None


def xmp_orientation(packet: bytes) -> int | None:
    """1 … 8; None where the packet has none."""
    match = _XMP.search(packet[:_XMP_BYTES])
    if match is None:
        return None
    return int(match[1])
