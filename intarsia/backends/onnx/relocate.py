"""Changing the paths of external weights in a serialized graph.

ONNX Runtime opens no weights outside of one folder, and resolves links before it compares. For a model whose files are
links (the Hugging Face cache) that folder is a common parent of the links' targets, and its graphs get the targets'
paths in it. The weights stay mapped: passed in memory, ONNX Runtime would copy them.

The graph is rewritten on the level of Protocol Buffers (onnx.proto; encoding:
https://protobuf.dev/programming-guides/encoding): the package onnx is not needed to run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from intarsia.errors import WeightsError

__all__ = ["find_root", "relocated"]

# Message → number of a field → the message in it; the fields on the way from a model to the paths of tensors.
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
    """The folder that holds a model's weights once links are resolved, and each file's path in it.

    Args:
        files: relative to ``folder``.

    Returns:
        ``folder`` itself, and no paths, where the files are in it.
    """
    real_folder = _real(folder)
    targets = {name: _real(folder / name) for name in files}
    if all(target == real_folder / name for name, target in targets.items()):
        return folder, {}

    parents = [target.parent for target in targets.values()]
    root = Path(os.path.commonpath(parents))
    places = {name: target.relative_to(root).as_posix() for name, target in targets.items()}
    return root, places


def _real(path: Path) -> Path:
    """The path with links resolved."""
    return Path(os.path.realpath(path))


def relocated(graph: bytes, places: Mapping[str, str]) -> bytes:
    """The same graph with other paths of its weights.

    Raises:
        WeightsError: bytes that are not a graph, or a path that is not in ``places``.
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
            continue
        rewritten = _rewritten(inner[number], payload, places)
        parts.append(_field(number, rewritten))
    return b"".join(parts)


def _entry(content: bytes, places: Mapping[str, str]) -> bytes:
    """One of a tensor's (key, value) pairs; the key ``location`` has the file as its value."""
    pair = {number: payload for number, _, payload in _fields(content)}
    if pair.get(_KEY) != b"location":
        return content

    file = pair[_VALUE] or b""
    place = places[file.decode("utf-8")]
    return _field(_KEY, b"location") + _field(_VALUE, place.encode("utf-8"))


def _fields(content: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
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


def _field(number: int, payload: bytes) -> bytes:
    tag = number << 3 | _BYTES
    return _encoded(tag) + _encoded(len(payload)) + payload


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
