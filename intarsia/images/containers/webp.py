"""WebP: RIFF chunks (WebP Container Specification)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from intarsia.images.containers.container import MOST_PARTS, Container, Damaged, usable_profile
from intarsia.images.containers.exif import exif_orientation, xmp_orientation

__all__ = ["size_of", "unpack"]

_HEADER = 12
_IMAGE_CHUNKS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_ICC, _EXIF, _XMP = 0x20, 0x08, 0x04  # flags of VP8X
_SIDE = 0x3FFF  # the 14 bits of a width or height


def size_of(data: bytes) -> tuple[int, int] | None:
    """``(width, height)``; None where no header says it. Raises struct.error where it ends early."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        last_column = int.from_bytes(data[24:27], "little")
        last_row = int.from_bytes(data[27:30], "little")
        return last_column + 1, last_row + 1

    if kind == b"VP8L" and data[20:21] == b"\x2f":
        (bits,) = struct.unpack_from("<I", data, 21)
        last_column = bits & _SIDE
        last_row = (bits >> 14) & _SIDE
        return last_column + 1, last_row + 1

    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & _SIDE, height & _SIDE
    return None


def unpack(data: bytes) -> Container:
    """The image, or an animation's first frame, is left.

    Raises:
        Damaged: it ends early, has no image, or more chunks than images have.
    """
    image_chunks: list[bytes | memoryview] = []
    frames, exif, xmp = 0, 1, 1
    exif_block = xmp_packet = b""
    profile: bytes | None = None
    notes: list[str] = []

    for kind, chunk in _chunks(data):
        frames += kind == b"ANMF"
        if kind == b"VP8X":
            flags = chunk[8] & ~(_ICC | _EXIF | _XMP)
            image_chunks.append(b"".join([chunk[:8], bytes([flags]), chunk[9:]]))
        elif kind in _IMAGE_CHUNKS and (kind != b"ANMF" or frames == 1):
            image_chunks.append(chunk)
        elif kind == b"ICCP" and profile is None:
            profile = bytes(chunk[8:])
        elif kind == b"EXIF":
            exif, exif_block = _exif(_content(chunk), notes)
        elif kind == b"XMP ":
            xmp_packet = _content(chunk)
            xmp = xmp_orientation(xmp_packet) or 1

    body = b"".join(image_chunks)
    return Container(
        data=struct.pack("<4sI4s", b"RIFF", 4 + len(body), b"WEBP") + body,
        kind="WEBP",
        size=_size(data),
        has_more=frames > 1,
        icc_profile=usable_profile(profile, notes),
        orientation=exif if exif != 1 else xmp,
        exif=exif_block,
        xmp=xmp_packet,
        notes=tuple(notes),
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and whole chunk, padded to even; what is behind the RIFF chunk is left out."""
    (length,) = struct.unpack_from("<I", data.ljust(_HEADER, b"\0"), 4)
    end = 8 + length
    if end > len(data):
        raise Damaged("is truncated: the WebP ends before its image")

    view = memoryview(data)
    position = _HEADER
    for _ in range(MOST_PARTS):
        if position + 8 > end:
            return

        kind, size = struct.unpack_from("<4sI", data, position)
        end_of_chunk = position + 8 + size
        if end_of_chunk > end:
            raise Damaged("is truncated: the WebP ends before its image")
        if kind == b"VP8X" and size < 10:
            raise Damaged("is damaged: the WebP's header is too short")

        padding = size & 1
        following = end_of_chunk + padding
        yield kind, view[position:following]
        position = following
    raise Damaged(f"has more than {MOST_PARTS} chunks")


def _content(chunk: memoryview) -> bytes:
    """What is in a chunk, without its padding."""
    size = int.from_bytes(chunk[4:8], "little")
    return bytes(chunk[8 : 8 + size])


def _exif(block: bytes, notes: list[str]) -> tuple[int, bytes]:
    """The orientation, and the block where it can be read."""
    try:
        return exif_orientation(block) or 1, block
    except ValueError as exc:
        notes.append(f"the EXIF data cannot be read and were ignored ({exc})")
        return 1, b""


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        return size_of(data)
    except struct.error as exc:
        raise Damaged("is truncated: the WebP ends before its image") from exc
