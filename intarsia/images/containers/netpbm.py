"""Netpbm: PBM, PGM and PPM, binary and plain, and PFM in gray.

They are read here since Pillow reads plain and 16-bit ones in a loop over pixels, and headers byte by byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intarsia.images.containers.container import Damaged

__all__ = ["MAGIC", "Netpbm", "header_of", "samples_of"]

MAGIC = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf")

_BLANK = rb"(?:[ \t\r\n\v\f]|#[^\r\n]*[\r\n])+"
_HEADERS = {
    count: re.compile(rb"P[1-6]" + (_BLANK + rb"(\d{1,9})") * count + rb"(?:#[^\r\n]*)?[ \t\r\n\v\f]")
    for count in (2, 3)
}
_FLOAT_HEADER = re.compile(rb"Pf\s{1,9}(\d{1,9})\s{1,9}(\d{1,9})\s{1,9}([-+.\deE]{1,20})\s")
_BLANKS = b" \t\r\n\v\f"
_COMMENT = re.compile(rb"#[^\r\n]*")
_LONGEST_HEADER = 1 << 16
# Numbers as text are read at some ten million a second.
_MOST_PLAIN_BYTES = 12 << 20


@dataclass(frozen=True, kw_only=True)
class Netpbm:
    """The header of one file.

    Attributes:
        kind: the digit after the P; 0 is PFM.
        highest: the sample that means white.
        start: where the samples begin.
        order: of the bytes of a float.
    """

    kind: int
    width: int
    height: int
    highest: int
    start: int
    order: str = ""

    @property
    def channels(self) -> int:
        return 3 if self.kind in (3, 6) else 1


def header_of(data: bytes) -> Netpbm:
    """Raises :class:`Damaged` where it is not whole, or not at the beginning of the file."""
    if data.startswith(b"Pf"):
        return _float_header(data)
    kind = data[1] - ord("0")
    match = _HEADERS[2 if kind in (1, 4) else 3].match(data[:_LONGEST_HEADER])
    if match is None:
        raise Damaged(f"is truncated or damaged: it has no Netpbm header in its first {_LONGEST_HEADER} bytes")

    numbers = [int(group) for group in match.groups()]
    width, height = numbers[:2]
    highest = numbers[2] if len(numbers) > 2 else 1  # a bitmap has none
    if not 0 < highest < 65536:
        raise Damaged(f"is damaged: its highest value is {highest}, not between 1 and 65535")
    return Netpbm(kind=kind, width=width, height=height, highest=highest, start=match.end())


def _float_header(data: bytes) -> Netpbm:
    """PFM: the sign of the scale is the order of the bytes; its value says nothing of how white is written."""
    match = _FLOAT_HEADER.match(data[:_LONGEST_HEADER])
    try:
        scale = float(match[3]) if match else 0.0
    except ValueError:
        scale = 0.0
    if match is None or not scale:
        raise Damaged("is truncated or damaged: it has no PFM header")
    order, width, height = "<" if scale < 0 else ">", int(match[1]), int(match[2])
    return Netpbm(kind=0, width=width, height=height, highest=1, start=match.end(), order=order)


def samples_of(data: bytes, header: Netpbm) -> NDArray[Any]:
    """The samples, ``[H, W]`` or ``[H, W, 3]``, whole numbers 0 … ``highest``; of a PFM float32.

    Raises:
        Damaged: there are too few, or one is too large; or a plain file is larger than what is read.
    """
    shape = (header.height, header.width, 3)[: 3 if header.channels == 3 else 2]
    count = header.width * header.height * header.channels

    if header.kind == 0:
        floats = _binary(data, header, np.dtype(header.order + "f4"), count).reshape(shape)
        return np.ascontiguousarray(floats[::-1], np.float32)  # the last row is the first in the file
    if header.kind == 4:
        row = -(-header.width // 8)
        packed = _binary(data, header, np.dtype(np.uint8), row * header.height).reshape(header.height, row)
        return np.uint8(1) - np.unpackbits(packed, axis=1, count=header.width)  # 1 is black

    if header.kind > 4:
        samples = _binary(data, header, np.dtype(np.uint8 if header.highest < 256 else ">u2"), count)
    else:
        samples = _plain(data, header, count)
    if samples.max() > header.highest:
        raise Damaged(f"is damaged: a value is above its highest, {header.highest}")
    return samples.reshape(shape)


def _binary(data: bytes, header: Netpbm, kind: np.dtype[Any], count: int) -> NDArray[Any]:
    if len(data) - header.start < count * kind.itemsize:
        raise Damaged("is truncated: the Netpbm file ends before its image")
    return np.frombuffer(data, kind, count, header.start)


def _plain(data: bytes, header: Netpbm, count: int) -> NDArray[Any]:
    """Numbers as text; in a bitmap each digit is one, with blanks between them or without."""
    if len(data) > _MOST_PLAIN_BYTES:
        raise Damaged(f"is a plain Netpbm file of more than {_MOST_PLAIN_BYTES} bytes, which is not read")
    if count > len(data):  # a number takes a byte at least
        raise Damaged("is truncated: the Netpbm file ends before its image")

    text = _COMMENT.sub(b" ", data[header.start :])
    if header.kind == 1:
        digits = np.frombuffer(text.translate(None, delete=_BLANKS), np.uint8)[:count]
        values: NDArray[Any] = np.uint8(ord("1")) - digits
    else:
        values = _numbers(text, count)
    if len(values) < count:
        raise Damaged("is truncated: the Netpbm file ends before its image")
    return values


def _numbers(text: bytes, count: int) -> NDArray[np.int64]:
    if text.translate(None, delete=b"0123456789" + _BLANKS):
        raise Damaged("is damaged: its values are not numbers")
    return np.fromstring(text.decode("ascii"), np.int64, count=min(count, len(text) // 2 + 1), sep=" ")
