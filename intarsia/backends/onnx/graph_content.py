"""A serialized graph taken apart: its nodes, and its initializers with the bytes of files that they refer to.

Fields by their numbers in onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from intarsia.backends.onnx.protobuf import field as written
from intarsia.backends.onnx.protobuf import fields, number_field, numbers

__all__ = [
    "FLOAT",
    "GraphContent",
    "Initializer",
    "Node",
    "make_node",
    "moved_node",
    "operator_set",
    "parse",
    "serialize",
]

FLOAT = 1
"""TensorProto.DataType of float32."""

_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_OPERATOR_SET, _SET_DOMAIN, _SET_VERSION = 8, 1, 2
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_NAME, _INTEGER, _SUBGRAPH, _INTEGERS, _KIND = 1, 3, 6, 8, 20
_INTEGER_KIND = 2
_GRAPH_OUTPUT = 12
_INT64 = 7
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_DIMS, _DATA_TYPE, _INT64_DATA, _TENSOR_NAME, _RAW_DATA, _EXTERNAL, _LOCATION = 1, 2, 7, 8, 9, 13, 14


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation.

    Attributes:
        captured: names that its subgraphs use.
        integers: its attributes that are integers, or lists of them.
        whole: the field as it was.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: frozenset[str]
    integers: dict[str, list[int]]
    whole: bytes


@dataclass(frozen=True, kw_only=True)
class Initializer:
    """One constant tensor.

    Attributes:
        dtype: TensorProto.DataType.
        integers: its values, where these are int64 and in the graph itself.
        external: ``location``, ``offset`` and ``length`` in a file; empty where the graph itself holds it.
        whole: the field as it was.
    """

    name: str
    shape: tuple[int, ...]
    dtype: int
    integers: tuple[int, ...] = ()
    external: dict[str, str] = field(default_factory=dict)
    whole: bytes = b""


@dataclass(frozen=True, kw_only=True)
class GraphContent:
    """A model's graph; ``around`` and ``rest`` are the fields of model and graph that are none of these.

    Attributes:
        outputs: names of its outputs, whose fields are in ``rest``.
    """

    nodes: list[Node]
    initializers: dict[str, Initializer]
    outputs: frozenset[str]
    around: bytes
    rest: bytes


def parse(content: bytes) -> GraphContent:
    """Raises IndexError, ValueError or struct.error for bytes that are not a graph."""
    around, graph = b"", b""
    for key, whole, payload in fields(content):
        if key == _GRAPH and payload is not None:
            graph = payload
        else:
            around += whole

    nodes: list[Node] = []
    initializers: dict[str, Initializer] = {}
    outputs: set[str] = set()
    rest = b""
    for key, whole, payload in fields(graph):
        if key == _GRAPH_OUTPUT and payload is not None:
            outputs.update(_output_names(payload))
        if key == _NODE and payload is not None:
            nodes.append(_node(whole, payload))
        elif key == _INITIALIZER and payload is not None:
            tensor = _initializer(whole, payload)
            initializers[tensor.name] = tensor
        else:
            rest += whole
    return GraphContent(nodes=nodes, initializers=initializers, outputs=frozenset(outputs), around=around, rest=rest)


def serialize(graph: GraphContent) -> bytes:
    """The bytes of a graph; an initializer that was not parsed is written anew."""
    nodes = b"".join(node.whole for node in graph.nodes)
    tensors = b"".join(tensor.whole or _written(tensor) for tensor in graph.initializers.values())
    return graph.around + written(_GRAPH, nodes + tensors + graph.rest)


def make_node(
    op: str, inputs: tuple[str, ...], outputs: tuple[str, ...], *, domain: str, integers: dict[str, int]
) -> Node:
    """A new operation, all of whose attributes are integers."""
    attributes = b""
    for name, value in integers.items():
        attribute = written(_NAME, name.encode()) + number_field(_INTEGER, value)
        attributes += written(_ATTRIBUTE, attribute + number_field(_KIND, _INTEGER_KIND))
    return _made(op, inputs, outputs, domain, attributes)


def moved_node(node: Node, inputs: tuple[str, ...], outputs: tuple[str, ...], *, domain: str) -> Node:
    """The operation of that name in another domain, with the same attributes, between other values."""
    ((_, _, payload),) = fields(node.whole)
    attributes = b"".join(whole for key, whole, _ in fields(payload or b"") if key == _ATTRIBUTE)
    return _made(node.op, inputs, outputs, domain, attributes)


def operator_set(domain: str, version: int) -> bytes:
    """The field of a model that imports a domain's operations."""
    return written(_OPERATOR_SET, written(_SET_DOMAIN, domain.encode()) + number_field(_SET_VERSION, version))


def _made(op: str, inputs: tuple[str, ...], outputs: tuple[str, ...], domain: str, attributes: bytes) -> Node:
    named = [(_INPUT, name) for name in inputs] + [(_OUTPUT, name) for name in outputs]
    payload = b"".join(written(key, name.encode()) for key, name in [*named, (_OP_TYPE, op), (_DOMAIN, domain)])
    payload += attributes
    return _node(written(_NODE, payload), payload)


def _node(whole: bytes, payload: bytes) -> Node:
    names: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _OP_TYPE: []}
    integers: dict[str, list[int]] = {}
    captured: set[str] = set()
    for key, _, inner in fields(payload):
        if key in names:
            names[key].append(_text(inner))
        elif key == _ATTRIBUTE and inner is not None:
            name, values, subgraph = _attribute(inner)
            integers[name] = values
            captured.update(_used(subgraph))

    return Node(
        op="".join(names[_OP_TYPE]),
        inputs=tuple(names[_INPUT]),
        outputs=tuple(names[_OUTPUT]),
        captured=frozenset(captured),
        integers=integers,
        whole=whole,
    )


def _attribute(payload: bytes) -> tuple[str, list[int], bytes]:
    """Name, integers, and subgraph where there is one."""
    name, subgraph = "", b""
    values: list[int] = []
    for key, part, inner in fields(payload):
        if key == _NAME:
            name = _text(inner)
        elif key in (_INTEGER, _INTEGERS):
            values += [_signed(value) for value in numbers(part, inner)]
        elif key == _SUBGRAPH:
            subgraph = inner or b""
    return name, values, subgraph


def _used(subgraph: bytes) -> Iterator[str]:
    """Names that a subgraph's nodes use, its own among them."""
    for key, whole, payload in fields(subgraph):
        if key == _NODE and payload is not None:
            node = _node(whole, payload)
            yield from node.inputs
            yield from node.captured
    for key, _, payload in fields(subgraph):
        if key == _GRAPH_OUTPUT and payload is not None:  # an output may be a value of the graph around it
            yield from _output_names(payload)


def _output_names(payload: bytes) -> Iterator[str]:
    """The name of a graph's output, from its field."""
    return (_text(inner) for entry, _, inner in fields(payload) if entry == _NAME)


def _initializer(whole: bytes, payload: bytes) -> Initializer:
    shape: list[int] = []
    integers: list[int] = []
    external: dict[str, str] = {}
    name, dtype = "", 0
    for key, part, inner in fields(payload):
        if key == _DIMS:
            shape += numbers(part, inner)
        elif key == _DATA_TYPE:
            (dtype,) = numbers(part, inner)
        elif key == _INT64_DATA:
            integers += [_signed(value) for value in numbers(part, inner)]
        elif key == _RAW_DATA and inner is not None and dtype == _INT64:
            integers += struct.unpack(f"<{len(inner) // 8}q", inner)
        elif key == _TENSOR_NAME:
            name = _text(inner)
        elif key == _EXTERNAL and inner is not None:
            pair = {entry: _text(text) for entry, _, text in fields(inner)}
            external[pair[_ENTRY_KEY]] = pair[_ENTRY_VALUE]

    return Initializer(
        name=name, shape=tuple(shape), dtype=dtype, integers=tuple(integers), external=external, whole=whole
    )


def _written(tensor: Initializer) -> bytes:
    payload = b"".join(number_field(_DIMS, count) for count in tensor.shape)
    payload += number_field(_DATA_TYPE, tensor.dtype) + written(_TENSOR_NAME, tensor.name.encode())
    for key, value in tensor.external.items():
        pair = written(_ENTRY_KEY, key.encode()) + written(_ENTRY_VALUE, value.encode())
        payload += written(_EXTERNAL, pair)
    payload += number_field(_LOCATION, 1)
    return written(_INITIALIZER, payload)


def _signed(value: int) -> int:
    """Negative numbers are written in 64 bits, as their complement to two."""
    return value - (1 << 64) if value >> 63 else value


def _text(payload: bytes | None) -> str:
    return (payload or b"").decode("utf-8")
