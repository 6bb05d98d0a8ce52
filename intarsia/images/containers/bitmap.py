"""BMP: refused where it is run-length encoded and large, since that is decoded by a loop in Python."""

from __future__ import annotations

import struct

from intarsia.images.containers.container import Container, Damaged

__all__ = ["SIGNATURE", "size_of", "unpack"]

SIGNATURE = b"BM"

_RUN_LENGTHS = (1, 2)
_MOST_RUN_BYTES = 1 << 20
_SHORT_HEADER = 12  # bytes of OS/2's; the others begin alike


def size_of(data: bytes) -> tuple[int, int]:
    """``(width, height)``; raises struct.error where the header is not there."""
    if _header_bytes(data) == _SHORT_HEADER:
        width, height = struct.unpack_from("<HH", data, 18)
        return width, height

    width, height = struct.unpack_from("<Ii", data, 18)
    return width, abs(height)


def unpack(data: bytes) -> Container:
    """The file as it is.

    Raises:
        Damaged: it ends in its header, or is run-length encoded and large.
    """
    try:
        size = size_of(data)
        compression = 0
        if _header_bytes(data) != _SHORT_HEADER:
            (compression,) = struct.unpack_from("<I", data, 30)
    except struct.error as exc:
        raise Damaged("is truncated: the BMP ends in its header") from exc

    if compression in _RUN_LENGTHS and len(data) > _MOST_RUN_BYTES:
        raise Damaged(f"is a run-length encoded BMP of more than {_MOST_RUN_BYTES} bytes, which is not read")
    return Container(data=data, kind="BMP", size=size)


def _header_bytes(data: bytes) -> int:
    (length,) = struct.unpack_from("<I", data, 14)
    return int(length)
