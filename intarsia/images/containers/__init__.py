"""Files of images before they are decoded: their chunks, segments and pages walked through, in bounded work.

:func:`unpack` takes from a file what is used (size, profile, orientation, whether there are more frames) and leaves the
smallest file that a decoder needs for the first image. So no decoder sees what costs time or memory without being
part of the image: texts, comments, private chunks, previews, later frames.
"""

from __future__ import annotations

import struct
from types import ModuleType

from intarsia.images.containers import avif, bitmap, gif, heif, ico, jpeg, jpeg2000, png, tiff, webp
from intarsia.images.containers.container import Container, Damaged

__all__ = ["Container", "Damaged", "size_of", "unpack"]


def unpack(data: bytes) -> Container:
    """What a file holds, and the file that is left for the decoder: ``data`` itself where its kind is not known here.

    Raises:
        Damaged: it ends early, contradicts itself, or has more parts than an image has.
    """
    reader = _reader(data)
    if reader is None:
        return Container(data=data)
    container: Container = reader.unpack(data)
    return container


def size_of(head: bytes) -> tuple[int, int] | None:
    """``(width, height)`` as stored, from the beginning of a file; None where it does not say, or not so soon."""
    measure = getattr(_reader(head), "size_of", None)
    if measure is None:
        return None

    try:
        size: tuple[int, int] | None = measure(head)
    except (Damaged, struct.error):  # what is wrong with it is found out when it is decoded
        return None
    return size


def _reader(data: bytes) -> ModuleType | None:
    """The module for that kind of file."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return webp
    if data[4:8] == b"ftyp" and data[8:12] in avif.BRANDS:
        return avif
    if heif.is_heif(data):
        return heif

    signatures: dict[ModuleType, bytes | tuple[bytes, ...]] = {
        png: png.SIGNATURE,
        jpeg: jpeg.SIGNATURE,
        gif: gif.SIGNATURES,
        tiff: tiff.SIGNATURES,
        jpeg2000: jpeg2000.SIGNATURES,
        bitmap: bitmap.SIGNATURE,
        ico: ico.SIGNATURE,
    }
    for module, signature in signatures.items():
        if data.startswith(signature):
            return module
    return None
