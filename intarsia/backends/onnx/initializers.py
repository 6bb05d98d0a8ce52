"""A serialized graph's weights: their names, their shapes, and their number formats where others are given in memory.

Numbers of fields are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from intarsia.backends.onnx.protobuf import field, fields, number_field, numbers
from intarsia.checkpoints.stored import Place
from intarsia.errors import WeightsError

__all__ = ["initializer_name", "initializer_shapes", "with_format"]

_GRAPH = 7
_INITIALIZER = 5
_DIMENSIONS, _FORMAT, _NAME = 1, 2, 8
_FORMATS = {"float32": 1, "float16": 10}


def initializer_name(place: Place) -> str:
    """What a graph calls a stored tensor, or some rows of one."""
    if place.rows is None:
        return place.name
    first, end = place.rows
    return f"{place.name}[{first}:{end}]"


def initializer_shapes(graph: bytes) -> dict[str, tuple[int, ...]]:
    """Shapes by name; WeightsError for bytes that are no graph."""
    try:
        return dict(_named(tensor) for tensor in _tensors(graph))
    except (IndexError, ValueError) as exc:
        raise WeightsError(f"a graph whose weights cannot be found: {exc}") from exc


def with_format(graph: bytes, names: Collection[str], dtype: str) -> bytes:
    """The same graph, in which some weights are of another number format; WeightsError as above.

    A ``Cast`` behind such a weight may stay: it does nothing.
    """
    try:
        parts = []
        for number, whole, payload in fields(graph):
            if number == _GRAPH and payload is not None:
                whole = field(number, _graph_with(payload, names, _FORMATS[dtype]))
            parts.append(whole)
        return b"".join(parts)
    except (IndexError, ValueError) as exc:
        raise WeightsError(f"a graph whose weights cannot be found: {exc}") from exc


def _graph_with(graph: bytes, names: Collection[str], number_format: int) -> bytes:
    parts = []
    for number, whole, payload in fields(graph):
        if number == _INITIALIZER and payload is not None and _named(payload)[0] in names:
            others = [each for other, each, _ in fields(payload) if other != _FORMAT]
            whole = field(number, b"".join([*others, number_field(_FORMAT, number_format)]))
        parts.append(whole)
    return b"".join(parts)


def _tensors(model: bytes) -> Iterator[bytes]:
    for number, _, graph in fields(model):
        if number != _GRAPH or graph is None:
            continue
        for inner, _, tensor in fields(graph):
            if inner == _INITIALIZER and tensor is not None:
                yield tensor


def _named(tensor: bytes) -> tuple[str, tuple[int, ...]]:
    name = ""
    shape: list[int] = []
    for number, whole, payload in fields(tensor):
        if number == _NAME and payload is not None:
            name = payload.decode("utf-8")
        elif number == _DIMENSIONS:
            shape += numbers(whole, payload)
    return name, tuple(shape)
