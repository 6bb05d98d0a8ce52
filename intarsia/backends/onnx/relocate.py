"""Changing the paths of external weights in a serialized graph.

ONNX Runtime opens no weights outside of one folder, and resolves links before it compares. For a model whose files are
links (the Hugging Face cache) that folder is a common parent of the links' targets, and its graphs get the targets'
paths in it. The weights stay mapped: passed in memory, ONNX Runtime would copy them.

The numbers of fields are those of onnx.proto.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from intarsia.backends.onnx.protobuf import field, fields
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
    for number, whole, payload in fields(content):
        if payload is None or number not in inner:
            parts.append(whole)
            continue
        rewritten = _rewritten(inner[number], payload, places)
        parts.append(field(number, rewritten))
    return b"".join(parts)


def _entry(content: bytes, places: Mapping[str, str]) -> bytes:
    """One of a tensor's (key, value) pairs; the key ``location`` has the file as its value."""
    pair = {number: payload for number, _, payload in fields(content)}
    if pair.get(_KEY) != b"location":
        return content

    file = pair[_VALUE] or b""
    place = places[file.decode("utf-8")]
    return field(_KEY, b"location") + field(_VALUE, place.encode("utf-8"))
