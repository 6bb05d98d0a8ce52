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
        is_color = self.kind in (3, 6)
        return 3 if is_color else 1


def header_of(data: bytes) -> Netpbm:
    """Raises :class:`Damaged` where it is not whole, or not at the beginning of the file."""
    if data.startswith(b"Pf"):
        return _float_header(data)

    kind = data[1] - ord("0")
    is_bitmap = kind in (1, 4)
    header = _HEADERS[2 if is_bitmap else 3]
    match = header.match(data[:_LONGEST_HEADER])
    if match is None:
        raise Damaged(f"is truncated or damaged: it has no Netpbm header in its first {_LONGEST_HEADER} bytes")

    width, height, *rest = [int(group) for group in match.groups()]
    highest = 1 if is_bitmap else rest[0]
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

    return Netpbm(
        kind=0,
        width=int(match[1]),
        height=int(match[2]),
        highest=1,
        start=match.end(),
        order="<" if scale < 0 else ">",
    )


def samples_of(data: bytes, header: Netpbm) -> NDArray[Any]:
    """The samples, ``[H, W]`` or ``[H, W, 3]``, whole numbers 0 … ``highest``; of a PFM float32.

    Raises:
        Damaged: there are too few, or one is too large; or a plain file is larger than what is read.
    """
    width, height = header.width, header.height
    count = width * height * header.channels

    if header.kind == 0:
        floats = _binary(data, header, f"{header.order}f4", count)
        rows = floats.reshape(height, width)[::-1]  # the last row is the first in the file
        return np.ascontiguousarray(rows, np.float32)

    if header.kind == 4:
        row_bytes = -(-width // 8)  # rounded up
        packed = _binary(data, header, "u1", row_bytes * height)
        bits = np.unpackbits(packed.reshape(height, row_bytes), axis=1, count=width)
        return np.uint8(1) - bits  # 1 is black

    if header.kind > 4:
        kind = "u1" if header.highest < 256 else ">u2"
        samples = _binary(data, header, kind, count)
    else:
        samples = _plain(data, header, count)
    if samples.max() > header.highest:
        raise Damaged(f"is damaged: a value is above its highest, {header.highest}")
    if header.channels == 3:
        return samples.reshape(height, width, 3)
    return samples.reshape(height, width)


def _binary(data: bytes, header: Netpbm, kind: str, count: int) -> NDArray[Any]:
    """``count`` samples of numpy's type ``kind``."""
    dtype: np.dtype[Any] = np.dtype(kind)
    available = len(data) - header.start
    if available < count * dtype.itemsize:
        raise Damaged("is truncated: the Netpbm file ends before its image")
    return np.frombuffer(data, dtype, count, header.start)


def _plain(data: bytes, header: Netpbm, count: int) -> NDArray[Any]:
    """Numbers as text; in a bitmap each digit is one, with blanks between them or without."""
    if len(data) > _MOST_PLAIN_BYTES:
        raise Damaged(f"is a plain Netpbm file of more than {_MOST_PLAIN_BYTES} bytes, which is not read")
    if count > len(data):  # a number takes a byte at least
        raise Damaged("is truncated: the Netpbm file ends before its image")

    text = _COMMENT.sub(b" ", data[header.start :])
    if header.kind == 1:
        packed = text.translate(None, delete=_BLANKS)
        digits = np.frombuffer(packed, np.uint8)[:count]
        values: NDArray[Any] = np.uint8(ord("1")) - digits
    else:
        values = _numbers(text, count)
    if len(values) < count:
        raise Damaged("is truncated: the Netpbm file ends before its image")
    return values


def _numbers(text: bytes, count: int) -> NDArray[np.int64]:
    others = text.translate(None, delete=b"0123456789" + _BLANKS)
    if others:
        raise Damaged("is damaged: its values are not numbers")
    possible = len(text) // 2 + 1  # a digit and a blank for each
    return np.fromstring(text.decode("ascii"), np.int64, count=min(count, possible), sep=" ")
