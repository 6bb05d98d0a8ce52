"""PNG: chunks (W3C Portable Network Graphics, third edition, section 5)."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field

from intarsia.images.containers.container import MOST_PARTS, MOST_PROFILE_BYTES, Container, Damaged, inflated
from intarsia.images.containers.exif import exif_orientation, xmp_orientation

__all__ = ["SIGNATURE", "size_of", "unpack"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GRAY, _COLOR, _PALETTE = 0, 2, 3
_XMP = b"XML:com.adobe.xmp\0"
# ImageMagick writes EXIF as text, in hexadecimal.
_RAW_EXIF = re.compile(rb"Raw profile type (?:exif|APP1)\0")
_MOST_TEXT = 16 << 20
_PER_METER, _METERS_PER_INCH = 1, 0.0254


@dataclass(kw_only=True)
class _Chunks:
    """What has been read of one file's chunks so far."""

    header: bytes = b""
    needed: list[bytes | memoryview] = field(default_factory=list)
    transparency: bytes = b""
    profile: bytes | None = None
    exif: int | None = None
    exif_block: bytes = b""
    xmp: int | None = None
    xmp_packet: bytes = b""
    dpi: tuple[float, float] | None = None
    is_animated: bool = False
    seen: set[str] = field(default_factory=set)
    notes: dict[str, None] = field(default_factory=dict)


def size_of(data: bytes) -> tuple[int, int]:
    """``(width, height)``; raises struct.error where the header is not there."""
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def unpack(data: bytes) -> Container:
    """IHDR, PLTE, IDAT and a palette's tRNS are left; damage in any other chunk is a note.

    Raises:
        Damaged: no end, no header, or a wrong checksum in one of those.
    """
    chunks = _Chunks()
    view = memoryview(data)
    position = len(SIGNATURE)
    for _ in range(MOST_PARTS):
        if position + 12 > len(data):
            raise Damaged("is truncated: the PNG has no end")

        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if not kind.isalpha():
            raise Damaged(f"is damaged: the PNG has a chunk named {kind!r}")
        if end > len(data):
            raise Damaged("is truncated: the PNG has no end")
        if kind == b"IEND":
            return _container(chunks)

        _take(chunks, kind, view[position:end])
        position = end
    raise Damaged(f"has more than {MOST_PARTS} chunks")


def _container(chunks: _Chunks) -> Container:
    if not chunks.header:
        raise Damaged("is damaged: the PNG has no header")

    bits, color = chunks.header[16], chunks.header[17]
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return Container(
        data=b"".join([SIGNATURE, *chunks.needed, end]),
        kind="PNG",
        size=struct.unpack_from(">II", chunks.header, 8),
        has_more=chunks.is_animated,
        icc_profile=chunks.profile,
        orientation=chunks.exif or chunks.xmp or 1,
        exif=chunks.exif_block,
        xmp=chunks.xmp_packet,
        dpi=chunks.dpi,
        bits=bits,
        key=_key(chunks, bits, color),
        notes=tuple(chunks.notes),
    )


def _key(chunks: _Chunks, bits: int, color: int) -> tuple[int, ...] | None:
    """The one transparent color of an image without alpha and palette."""
    samples = {_GRAY: 1, _COLOR: 3}.get(color)
    if not samples or not chunks.transparency:
        return None
    if len(chunks.transparency) < 2 * samples:
        chunks.notes["a damaged tRNS chunk was ignored"] = None
        return None

    # Only the bits that a sample has count.
    sample_bits = (1 << bits) - 1
    values = struct.unpack_from(f">{samples}H", chunks.transparency)
    return tuple(value & sample_bits for value in values)


def _take(chunks: _Chunks, kind: bytes, chunk: memoryview) -> None:
    """One chunk, with its length and checksum."""
    content, checksum = chunk[8:-4], chunk[-4:]
    is_sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(checksum, "big")

    if kind in (b"IHDR", b"PLTE", b"IDAT"):
        if not is_sound:
            raise Damaged(f"is damaged: the checksum of its {kind.decode()} chunk is wrong")
        if kind == b"IHDR":
            if len(chunk) < 25:
                raise Damaged("is damaged: the PNG's header is too short")
            chunks.header = bytes(chunk)
        chunks.needed.append(chunk)
    elif not is_sound:
        chunks.notes[f"a damaged {kind.decode()} chunk was ignored"] = None
    elif kind == b"tRNS":
        chunks.transparency = bytes(content)
        color = chunks.header[17:18]
        if color == bytes([_PALETTE]):
            chunks.needed.append(chunk)
    elif kind == b"acTL":
        frames = int.from_bytes(chunk[8:12], "big")
        chunks.is_animated = chunks.is_animated or frames > 1
    else:
        _note(chunks, kind, content)


def _note(chunks: _Chunks, kind: bytes, content: memoryview) -> None:
    """The chunks with a profile or an orientation; of each kind the first one alone."""
    match = _RAW_EXIF.match(content) if kind in (b"zTXt", b"tEXt") else None
    name = "raw EXIF" if match else kind.decode()
    if name in chunks.seen:
        return

    if match:
        _read_raw_exif(chunks, bytes(content[match.end() :]), kind == b"zTXt")
    elif kind == b"iCCP":
        chunks.profile = _profile(bytes(content), chunks)
    elif kind == b"eXIf":
        _read_exif(chunks, bytes(content))
    elif kind == b"iTXt" and content[: len(_XMP)] == _XMP:
        chunks.xmp_packet = _xmp(bytes(content))
        chunks.xmp = xmp_orientation(chunks.xmp_packet)
    elif kind == b"pHYs":
        chunks.dpi = _density(content)
    else:
        return

    chunks.seen.add(name)


def _profile(content: bytes, chunks: _Chunks) -> bytes | None:
    packed = content.partition(b"\0")[2][1:]
    profile = inflated(packed, MOST_PROFILE_BYTES)
    if profile is None:
        note = f"a color profile that is damaged, or has more than {MOST_PROFILE_BYTES} bytes, was left out"
        chunks.notes[note] = None
    return profile


def _read_exif(chunks: _Chunks, block: bytes) -> None:
    try:
        chunks.exif = exif_orientation(block)
        chunks.exif_block = block
    except ValueError as exc:
        chunks.notes[f"the EXIF data cannot be read and were ignored ({exc})"] = None


def _density(content: memoryview) -> tuple[float, float] | None:
    """Pixels per inch; None where only their ratio is stored."""
    if len(content) < 9:
        return None
    across, down, unit = struct.unpack_from(">IIB", content)
    if unit != _PER_METER:
        return None
    return across * _METERS_PER_INCH, down * _METERS_PER_INCH


def _xmp(content: bytes) -> bytes:
    """The packet in an iTXt chunk; b"" where it cannot be read."""
    content = content.removeprefix(_XMP)
    is_packed = content[:1] == b"\1"
    method = content[1:2]
    *_, packet = content[2:].split(b"\0", 2)
    if not is_packed:
        return packet

    if method != b"\0":  # the only compression that there is
        return b""
    return inflated(packet, _MOST_TEXT) or b""


def _read_raw_exif(chunks: _Chunks, text: bytes, is_packed: bool) -> None:
    """A line with the name, one with the length, then hexadecimal."""
    plain = inflated(text[1:], _MOST_TEXT) if is_packed else text
    words = (plain or b"").split()
    digits = b"".join(words[2:])
    try:
        block = bytes.fromhex(digits.decode("ascii", "replace"))
        chunks.exif = chunks.exif or exif_orientation(block)
        chunks.exif_block = chunks.exif_block or block
    except ValueError as exc:
        chunks.notes[f"the EXIF data cannot be read and were ignored ({exc})"] = None
