"""JPEG 2000: boxes and the codestream's header (ISO/IEC 15444-1, annexes A and I)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from intarsia.images.containers.container import Container, Damaged

__all__ = ["SIGNATURES", "unpack"]

_BOXES, _CODESTREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
SIGNATURES = (_BOXES, _CODESTREAM)

_MOST_PARTS = 1000
_COST = 4  # OpenJPEG keeps 32 bits a sample, twice: 20 bytes for a pixel of color
_COD, _SOT = 0x52, 0x90
_MOST_TILES = 1 << 12
# A decoder keeps some hundred bytes for each code block.
_LEAST_BLOCK = 1 << 10


def unpack(data: bytes) -> Container:
    """The file as it is, of a size and depth that its codestream states.

    Raises:
        Damaged: no codestream, or more boxes, segments, tiles or code blocks than images have.
    """
    try:
        start = 0 if data.startswith(_CODESTREAM) else _codestream(data)
        right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">IIIIII", data, start + 8)
        bits = _bits(data, start + 40)
        for kind, segment in _segments(data, start + 2):
            if kind == _COD:
                _check_blocks(data, segment)
    except (struct.error, IndexError) as exc:
        raise Damaged("is truncated: the JPEG 2000 ends in its header") from exc

    width, height = right - left, bottom - top
    if width <= 0 or height <= 0 or not tile_width or not tile_height:
        raise Damaged("is damaged: the JPEG 2000 has no pixels")

    across = -(-right // tile_width)  # rounded up
    down = -(-bottom // tile_height)
    if across * down > _MOST_TILES:
        raise Damaged(f"has more than {_MOST_TILES} tiles")
    return Container(data=data, kind="JPEG2000", size=(width, height), bits=bits, cost=_COST)


def _bits(data: bytes, position: int) -> int:
    """Of the deepest channel: their number is at ``position``, three bytes for each follow."""
    (channels,) = struct.unpack_from(">H", data, position)
    first = position + 2
    depths = data[first : first + 3 * channels : 3]
    bits = [(byte & 0x7F) + 1 for byte in depths]
    return max(bits, default=8)


def _codestream(data: bytes) -> int:
    """Where the codestream begins."""
    position = 0
    for _ in range(_MOST_PARTS):
        length, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, position + 8)
            header = 16

        if kind == b"jp2c":
            if not data.startswith(_CODESTREAM, position + header):
                break
            return position + header
        if kind == b"jp2h":
            _check_header(data, position + header, position + length)
        if length < header:
            break
        position += length
    raise Damaged("is damaged: the JPEG 2000 has no image")


def _check_header(data: bytes, position: int, end: int) -> None:
    """The boxes of the JP2 header are few."""
    for _ in range(_MOST_PARTS):
        if position + 8 > min(end, len(data)):
            return
        (length,) = struct.unpack_from(">I", data, position)
        position += max(length, 8)
    raise Damaged(f"has more than {_MOST_PARTS} boxes")


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Marker and place of each segment of the main header."""
    for _ in range(_MOST_PARTS):
        mark, kind, length = struct.unpack_from(">BBH", data, position)
        if kind == _SOT:
            return
        if mark != 0xFF or length < 2:
            raise Damaged("is damaged: a segment of the JPEG 2000 has no marker")
        yield kind, position
        position += 2 + length
    raise Damaged(f"has more than {_MOST_PARTS} segments")


def _check_blocks(data: bytes, segment: int) -> None:
    """Code blocks and precincts of a size that encoders use (table A.20: exponents)."""
    width = 1 << (data[segment + 10] + 2)
    height = 1 << (data[segment + 11] + 2)
    if width * height < _LEAST_BLOCK:
        raise Damaged(f"has code blocks of {width}x{height}; at least {_LEAST_BLOCK} pixels are read")

    has_precincts = data[segment + 4] & 1
    if not has_precincts:
        return
    levels = data[segment + 9]
    first = segment + 14
    for byte in data[first : first + levels]:
        across, down = byte & 0x0F, byte >> 4
        if min(across, down) < 5:
            raise Damaged("has precincts of less than 32 pixels")
