"""The places of weights in a serialized graph, changed.

ONNX Runtime opens no weights outside of one folder, and follows links before it compares. A model whose files are links
(the Hugging Face cache) therefore gets another folder, one that holds what the links lead to, and its graphs the files'
places in it. The weights stay mapped: handed over in memory, ONNX Runtime would copy them.

The graph is rewritten as the Protocol Buffers that it is (onnx.proto; encoding:
https://protobuf.dev/programming-guides/encoding): the package onnx is not needed to run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from intarsia.errors import WeightsError

__all__ = ["find_root", "relocated"]

# Message → number of a field → the message in it; the fields on the way from a model to the places of tensors.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def find_root(folder: Path, files: Iterable[str]) -> tuple[Path, dict[str, str]]:
    """The folder that holds a model's weights once links are followed, and each file's place in it.

    Args:
        files: relative to ``folder``.

    Returns:
        ``folder`` itself, and no places, where the files lie in it.
    """
    inside = Path(os.path.realpath(folder))
    real = {name: Path(os.path.realpath(folder / name)) for name in files}
    if all(path == inside / name for name, path in real.items()):
        return folder, {}
    root = Path(os.path.commonpath([path.parent for path in real.values()]))
    return root, {name: path.relative_to(root).as_posix() for name, path in real.items()}


def relocated(graph: bytes, places: Mapping[str, str]) -> bytes:
    """The same graph with other places of its weights.

    Raises:
        WeightsError: bytes that are not a graph, or a place that is not in ``places``.
    """
    try:
        return _rewritten("model", graph, places)
    except (IndexError, ValueError, KeyError) as exc:
        raise WeightsError(f"a graph whose weights cannot be found again: {exc}") from exc


def _rewritten(message: str, content: bytes, places: Mapping[str, str]) -> bytes:
    if message == "entry":
        return _entry(content, places)
    parts: list[bytes] = []
    inner = _FIELDS[message]
    for number, whole, payload in _fields(content):
        if payload is None or number not in inner:
            parts.append(whole)
        else:
            parts.append(_field(number, _rewritten(inner[number], payload, places)))
    return b"".join(parts)


def _entry(content: bytes, places: Mapping[str, str]) -> bytes:
    """One of a tensor's (key, value) pairs; the key ``location`` has the file as its value."""
    pair = {number: payload for number, _, payload in _fields(content)}
    if pair.get(_KEY) != b"location":
        return content
    place = places[(pair[_VALUE] or b"").decode("utf-8")]
    return _field(_KEY, b"location") + _field(_VALUE, place.encode("utf-8"))


def _fields(content: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """Number, the whole field, and what is in it where that is a message, a string or bytes."""
    at = 0
    while at < len(content):
        start = at
        tag, at = _varint(content, at)
        kind, payload = tag & 7, None
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _BYTES:
            length, at = _varint(content, at)
            payload, at = content[at : at + length], at + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at > len(content):
            raise ValueError("a field that is cut off")
        yield tag >> 3, content[start:at], payload


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _field(number: int, payload: bytes) -> bytes:
    return _encoded(number << 3 | _BYTES) + _encoded(len(payload)) + payload


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
