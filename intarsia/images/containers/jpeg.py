"""JPEG: segments (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from intarsia.images.containers.container import Container, Damaged, usable_profile
from intarsia.images.containers.exif import exif_orientation, xmp_orientation

__all__ = ["SIGNATURE", "size_of", "unpack"]

SIGNATURE = b"\xff\xd8\xff"

_EOI, _SOS, _APP0, _APP1, _APP2, _APP14 = 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD, 0xDC}  # DHT, DAC, DQT, DRI, DNL
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment: TEM, RST0 … 7, SOI

_MOST_SEGMENTS = 10_000
# A progressive image has about ten scans. Each is a walk through all coefficients, with or without data for them.
_MOST_SCANS, _USUAL_SCANS = 64, 20
_MOST_SCANNED = 1 << 30  # pixels in all scans together, where there are more than usual
_MARKER = re.compile(rb"\xff+([^\xff\x00])")
_LARGEST_STRIDE = 1 << 18
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_INCHES = {1: 1.0, 2: 2.54}
"""JFIF's units of density, pixels per inch and per centimeter, as factors to the first."""


@dataclass(kw_only=True)
class _Segments:
    """What has been read of the segments before the first scan."""

    needed: list[bytes | memoryview] = field(default_factory=lambda: [b"\xff\xd8"])
    size: tuple[int, int] | None = None
    profile: dict[int, bytes] = field(default_factory=dict)
    profile_parts: int = 0
    exif: int | None = None
    exif_block: bytes = b""
    xmp: int | None = None
    xmp_packet: bytes = b""
    dpi: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)


def size_of(data: bytes) -> tuple[int, int] | None:
    """``(width, height)``; None where the frame's header is not among the bytes. Raises what :func:`unpack` does."""
    for kind, start, end in _segments(data):
        if kind in _FRAMES:
            return _size(data[start:end])
    return None


def unpack(data: bytes) -> Container:
    """Frame, tables, scans, and the segments that say which colors they are; what is behind the end is cut off.

    Raises:
        Damaged: no frame or no scan, or more segments or scans than images have.
    """
    segments = _Segments()
    view = memoryview(data)
    scan = None
    for kind, start, end in _segments(data):
        if kind == _SOS:
            scan = start
            break
        _take(segments, kind, view[start:end])
    if scan is None or segments.size is None:
        raise Damaged("is truncated: the JPEG ends before its image")

    profile = usable_profile(_joined(segments), segments.notes)
    end_of_image = _end(data, scan, segments.size)
    scans = view[scan:end_of_image]
    return Container(
        data=b"".join([*segments.needed, scans]),
        kind="JPEG",
        size=segments.size,
        icc_profile=profile,
        orientation=segments.exif or segments.xmp or 1,
        exif=segments.exif_block,
        xmp=segments.xmp_packet,
        dpi=segments.dpi,
        notes=tuple(segments.notes),
    )


def _segments(data: bytes, position: int = 2) -> Iterator[tuple[int, int, int]]:
    """Each segment up to the first scan: its marker, where that begins, and where the segment ends."""
    for _ in range(_MOST_SEGMENTS):
        match = _MARKER.search(data, position)
        if match is None:
            return

        [kind] = match[1]
        start = match.end() - 2
        if kind == _EOI:
            return
        if kind in _ALONE:
            position = match.end()
            continue

        length = int.from_bytes(data[start + 2 : start + 4], "big")
        position = start + 2 + length
        if length < 2 or position > len(data):
            raise Damaged("is truncated or damaged: a segment of the JPEG is longer than the file")
        yield kind, start, position
        if kind == _SOS:
            return
    raise Damaged(f"has more than {_MOST_SEGMENTS} segments")


def _take(segments: _Segments, kind: int, segment: memoryview) -> None:
    if kind in _FRAMES:
        segments.size = _size(segment)
    if kind in _FRAMES or kind in _TABLES or kind == _APP14:
        segments.needed.append(segment)
        return
    if kind not in (_APP0, _APP1, _APP2):
        return

    content = bytes(segment[4:])
    if kind == _APP0 and content.startswith(b"JFIF"):
        segments.needed.append(segment)
        segments.dpi = _density(content)
    elif kind == _APP1 and content.startswith(_EXIF) and not segments.exif_block:
        segments.exif, segments.exif_block = _exif(content, segments.notes)
    elif kind == _APP1 and content.startswith(_XMP) and not segments.xmp_packet:
        segments.xmp_packet = content.removeprefix(_XMP)
        segments.xmp = xmp_orientation(segments.xmp_packet)
    elif kind == _APP2 and content.startswith(_ICC) and len(content) > len(_ICC) + 2:
        part = content.removeprefix(_ICC)
        number, parts = part[0], part[1]
        segments.profile_parts = parts
        segments.profile.setdefault(number, part[2:])


def _density(content: bytes) -> tuple[float, float] | None:
    """Pixels per inch in a JFIF segment; None where it says a ratio alone."""
    if len(content) < 12:
        return None
    unit, across, down = struct.unpack_from(">BHH", content, 7)
    factor = _INCHES.get(unit)
    return (across * factor, down * factor) if factor else None


def _exif(block: bytes, notes: list[str]) -> tuple[int | None, bytes]:
    """The orientation, and the block where it can be read."""
    try:
        return exif_orientation(block), block
    except ValueError as exc:
        notes.append(f"the EXIF data cannot be read and were ignored ({exc})")
        return None, b""


def _size(segment: bytes | memoryview) -> tuple[int, int]:
    if len(segment) < 10:
        raise Damaged("is damaged: the JPEG's frame header is too short")
    height, width = struct.unpack_from(">HH", segment, 5)
    return width, height


def _joined(segments: _Segments) -> bytes | None:
    """The color profile out of its numbered parts."""
    if segments.profile and len(segments.profile) != segments.profile_parts:
        segments.notes.append("a color profile of which parts are missing was left out")
        return None
    parts = sorted(segments.profile.items())
    profile = b"".join(part for _, part in parts)
    return profile or None


def _end(data: bytes, position: int, size: tuple[int, int]) -> int:
    """Where the image ends whose first scan is at ``position``: behind its end marker, or with the file."""
    width, height = size
    affordable = _MOST_SCANNED // max(1, width * height)
    most = min(_MOST_SCANS, max(_USUAL_SCANS, affordable))
    scans = 0

    for _ in range(_MOST_SEGMENTS):
        position = _behind_marker(data, position)
        kind = data[position - 1]
        if position == len(data) or kind == _EOI:
            return position

        scans += kind == _SOS
        if scans > most:
            raise Damaged(f"has more than {most} scans")
        if kind not in _ALONE:
            length = data[position : position + 2]
            position += int.from_bytes(length, "big")
    raise Damaged(f"has more than {_MOST_SEGMENTS} segments")


def _behind_marker(data: bytes, position: int) -> int:
    """Where the next marker ends, or the data do: in entropy-coded ones 0xFF is followed by 0 or a restart's number."""
    stride = 1 << 12
    while position + 1 < len(data):
        length = min(stride + 1, len(data) - position)
        piece = np.frombuffer(data, np.uint8, length, position)
        following = piece[1:]
        is_restart = (following & 0xF8) == 0xD0
        is_marker = (piece[:-1] == 0xFF) & (following != 0) & (following != 0xFF) & ~is_restart
        if is_marker.any():
            first = int(is_marker.argmax())
            return position + first + 2

        position += stride
        stride = min(2 * stride, _LARGEST_STRIDE)
    return len(data)
