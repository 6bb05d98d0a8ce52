"""AVIF: how many bits a channel has (AV1 Image File Format, section 2.2.1); its decoder bounds the rest itself."""

from __future__ import annotations

from intarsia.images.containers.container import Container

__all__ = ["BRANDS", "unpack"]

BRANDS = (b"avif", b"avis")

_HEADER = 1 << 16
_CONFIGURATION = b"av1C"
_HIGH_BITDEPTH, _TWELVE_BIT = 0x40, 0x20  # flags in its third byte


def unpack(data: bytes) -> Container:
    """The file as it is."""
    flags = 0
    place = data.find(_CONFIGURATION, 0, _HEADER)
    if 0 <= place < len(data) - 6:
        flags = data[place + 6]

    bits = 8
    if flags & _HIGH_BITDEPTH:
        bits = 12 if flags & _TWELVE_BIT else 10
    return Container(data=data, kind="AVIF", bits=bits)
