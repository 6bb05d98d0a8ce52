"""Fields of serialized Protocol Buffers (https://protobuf.dev/programming-guides/encoding), read and written as bytes.

Graphs are changed on this level, so that the package onnx is not needed to run them.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["field", "fields", "number_field", "numbers"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(content: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """Number, the whole field, and its payload where that is a message, a string or bytes."""
    offset = 0
    while offset < len(content):
        start = offset
        tag, offset = _varint(content, offset)
        number, kind = tag >> 3, tag & 7
        payload = None

        if kind == _VARINT:
            _, offset = _varint(content, offset)
        elif kind == _BYTES:
            length, offset = _varint(content, offset)
            payload = content[offset : offset + length]
            offset += length
        elif kind == _FIXED64:
            offset += 8
        elif kind == _FIXED32:
            offset += 4
        else:
            raise ValueError(f"a field of kind {kind}")

        if offset > len(content):
            raise ValueError("a field that is cut off")
        yield number, content[start:offset], payload


def numbers(whole: bytes, payload: bytes | None) -> list[int]:
    """The whole numbers of a field: one, or several that are packed."""
    if payload is None:
        _, offset = _varint(whole, 0)
        return [_varint(whole, offset)[0]]
    values = []
    offset = 0
    while offset < len(payload):
        value, offset = _varint(payload, offset)
        values.append(value)
    return values


def field(number: int, payload: bytes) -> bytes:
    """A field of a message, a string or bytes."""
    tag = number << 3 | _BYTES
    return _encoded(tag) + _encoded(len(payload)) + payload


def number_field(number: int, value: int) -> bytes:
    """A field of one whole number."""
    return _encoded(number << 3 | _VARINT) + _encoded(value)


def _varint(content: bytes, offset: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the offset behind it."""
    value = shift = 0
    while True:
        byte = content[offset]
        value |= (byte & 0x7F) << shift
        offset += 1
        shift += 7
        if byte < 0x80:
            return value, offset


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
