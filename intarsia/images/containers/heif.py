"""HEIF with HEVC in it (HEIC, what phones make): its brands, and how many bits a channel has.

Its decoder compares the size with its limits before it decodes, applies rotations, and bounds the rest itself.
"""

from __future__ import annotations

import struct

from intarsia.images.containers.container import Container

__all__ = ["is_heif", "unpack"]

# ISO/IEC 23008-12, B.4.1: still images and sequences, each with the brands of their derived and scalable kinds.
_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_MOST_BRANDS = 64

_HEADER = 1 << 16
_CONFIGURATION = b"hvcC"
_DEPTH = 4 + 17  # of its bytes the one that says bits of luma (ISO/IEC 14496-15, 8.3.3.1.2)


def is_heif(data: bytes) -> bool:
    """Whether a file, or its beginning, says that HEVC is in it, by its own brand or a compatible one."""
    if data[4:8] != b"ftyp":
        return False
    (length,) = struct.unpack_from(">I", data)
    brands = data[8 : min(length, 8 + 4 * _MOST_BRANDS)]
    return any(brands[start : start + 4] in _BRANDS for start in range(0, len(brands), 4) if start != 4)


def unpack(data: bytes) -> Container:
    """The file as it is."""
    bits = 8
    place = data.find(_CONFIGURATION, 0, _HEADER)
    if 0 <= place < len(data) - _DEPTH:
        bits = 8 + (data[place + _DEPTH] & 7)
    return Container(data=data, kind="HEIF", bits=bits)
