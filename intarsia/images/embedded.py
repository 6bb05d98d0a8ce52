"""What an image's file says of it beside its pixels, kept for the files of what is made of it: EXIF, XMP, density."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from PIL import Image

from intarsia.images.exif_block import upright

__all__ = ["NOTHING", "EmbeddedMetadata", "embedded_in", "kept"]

_MOST_BYTES = 1 << 20
"""Of EXIF, and of XMP: sixteen times what a JPEG's segment holds."""

_MOST_DENSITY = 100_000.0
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:=["\']|>))[2-8]')
# Previews show what the image was; the rest of an extended packet is in segments that are not read.
_XMP_PREVIEWS = ((b"<xmp:Thumbnails", b"</xmp:Thumbnails>"), (b"<xap:Thumbnails", b"</xap:Thumbnails>"))
_XMP_EXTENSION = re.compile(rb"\sxmpNote:HasExtendedXMP=([\"'])[0-9A-Fa-f]{0,64}\1")


@dataclass(frozen=True, kw_only=True)
class EmbeddedMetadata:
    """EXIF, XMP and density of a file, as they hold for its image once that is upright.

    Attributes:
        exif: the block from its TIFF header on, without a thumbnail; b"" where there is none.
        xmp: the packet, b"" where there is none.
        dpi: pixels per inch across and down; None where the file does not say.
    """

    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None


NOTHING = EmbeddedMetadata()


def kept(
    exif: bytes = b"", xmp: bytes = b"", dpi: tuple[float, float] | None = None, notes: list[str] | None = None
) -> EmbeddedMetadata:
    """What of a file's metadata is kept: the orientation reset, previews and what is damaged left out.

    Args:
        exif, xmp, dpi: as stored.
        notes: gets what was left out and may be missed.
    """
    notes = notes if notes is not None else []
    return EmbeddedMetadata(exif=_kept_exif(exif, notes), xmp=_kept_xmp(xmp, notes), dpi=_plausible(dpi))


def embedded_in(image: Image.Image, notes: list[str]) -> EmbeddedMetadata:
    """The same of an image that Pillow has opened: what is in its ``info``."""
    exif, xmp, dpi = (image.info.get(name) for name in ("exif", "xmp", "dpi"))
    if image.format == "JPEG" and not image.info.get("jfif_unit"):
        dpi = None  # of EXIF, which is kept as it is, or of Pillow's own making
    return kept(
        exif if isinstance(exif, bytes) else b"",
        xmp.encode() if isinstance(xmp, str) else xmp if isinstance(xmp, bytes) else b"",
        _pair(dpi),
        notes,
    )


def _kept_exif(block: bytes, notes: list[str]) -> bytes:
    if not block:
        return b""
    if len(block) > _MOST_BYTES:
        notes.append(f"EXIF data of more than {_MOST_BYTES} bytes were left out")
        return b""
    try:
        return upright(block)
    except ValueError as exc:
        notes.append(f"the EXIF data cannot be read and were left out ({exc})")
        return b""


def _kept_xmp(packet: bytes, notes: list[str]) -> bytes:
    if len(packet) > _MOST_BYTES:
        notes.append(f"XMP data of more than {_MOST_BYTES} bytes were left out")
        return b""
    packet = _XMP_ORIENTATION.sub(rb"\g<1>1", packet)
    for opening, closing in _XMP_PREVIEWS:
        packet = _without(packet, opening, closing)
    return _XMP_EXTENSION.sub(b"", packet)


def _without(packet: bytes, opening: bytes, closing: bytes) -> bytes:
    """A packet without the elements between these; in one walk, whatever is in it."""
    parts = []
    position = 0
    while (start := packet.find(opening, position)) >= 0 and (end := packet.find(closing, start)) >= 0:
        parts.append(packet[position:start])
        position = end + len(closing)
    return b"".join([*parts, packet[position:]])


def _plausible(dpi: tuple[float, float] | None) -> tuple[float, float] | None:
    """A density that other programs can hold; None for one that is none, as where only the ratio is stored."""
    if dpi is None or not all(1 <= value <= _MOST_DENSITY for value in dpi):
        return None
    return dpi


def _pair(value: Any) -> tuple[float, float] | None:
    try:
        across, down = value
        return float(across), float(down)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):  # a ratio of a TIFF may be anything
        return None
