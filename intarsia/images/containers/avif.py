"""AVIF: how many bits a channel has (AV1 Image File Format, section 2.2.1); its decoder bounds the rest itself."""

from __future__ import annotations

from intarsia.images.containers.container import Container

__all__ = ["BRANDS", "unpack"]

BRANDS = (b"avif", b"avis")

_HEADER = 1 << 16
_CONFIGURATION = b"av1C"


def unpack(data: bytes) -> Container:
    """The file as it is."""
    at = data.find(_CONFIGURATION, 0, _HEADER)
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    bits = 8
    if flags & 0x40:
        bits = 12 if flags & 0x20 else 10
    return Container(data=data, kind="AVIF", bits=bits)
