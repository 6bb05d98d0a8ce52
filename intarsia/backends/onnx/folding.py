"""A graph's weights brought into the form that its operations take, one tensor after the other.

ONNX Runtime folds constants too, but keeps what is stored, each intermediate result and what is folded until the whole
graph is done: 6.8 GiB for 3.3 GiB of SD1.5's network. Here only the folded weights are kept, in the memory that the
session then uses.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intarsia.backends.onnx.blocked_layout import IMPORT, blocked_weight, is_blockable, with_blocked
from intarsia.backends.onnx.graph_content import FLOAT, GraphContent, Initializer, Node, parse, serialize
from intarsia.errors import WeightsError
from intarsia.models.stored_arrays import as_numbers

__all__ = ["FoldedGraph", "Origin", "WeightMaker", "fold"]

Floats = NDArray[np.float32]
Origin = tuple[Any, ...]
WeightMaker = Callable[[], np.ndarray]
"""Makes a weight's values at the first call, and keeps them for as long as it is there itself."""

# By TensorProto.DataType: how numbers are read, and their type in safetensors where numpy has no such numbers.
_STORED: dict[int, tuple[np.dtype[Any], str]] = {
    FLOAT: (np.dtype("<f4"), ""),
    10: (np.dtype("<f2"), ""),
    16: (np.dtype("<u2"), "BF16"),
    17: (np.dtype("u1"), "F8_E4M3"),
    19: (np.dtype("u1"), "F8_E5M2"),
}
# Values; smaller tensors are left to ONNX Runtime.
_SMALLEST = 1 << 14
# Of which the second input is a weight that ONNX Runtime only multiplies by: it looks at its shape, not at its values.
_TAKERS = ("MatMul", "Conv")
# What is done here; each moves values or changes their type, and rounds nothing.
_FOLDED = ("Cast", "Transpose", "Reshape", "Concat", "Split")
# A length that no reading of a tensor takes for right: weights that are given in memory must not be read from a file.
_UNREADABLE = {"offset": "0", "length": "1"}


@dataclass(frozen=True, kw_only=True)
class FoldedGraph:
    """A graph and the weights that it no longer reads from files.

    Attributes:
        weights: float32, by the names of the initializers that they stand for; a session refers to their memory.
        by_origin: the same, by what they were made of and how.
    """

    content: bytes
    weights: dict[str, Floats]
    by_origin: dict[Origin, Floats]


def fold(
    content: bytes,
    root: Path,
    given: dict[str, WeightMaker] | None = None,
    *,
    block: int = 0,
    known: Mapping[Origin, Floats] | None = None,
) -> FoldedGraph:
    """Fold the large weights of a graph.

    ONNX Runtime can no longer look at them, and so not bring those of convolutions into its blocked layout: that is
    done here, or a session on this graph has to leave it out.

    Args:
        root: the folder that its weight files are relative to.
        block: channels of a block in the blocked layout (:mod:`.blocked_layout`); 0 leaves convolutions as they are.
        given: makes weights by name, in place of those in files. Those that are folded are taken out of it.
        known: folded weights of another graph with the same ``root`` and ``given``, which are not made again.

    Raises:
        WeightsError: bytes that are not a graph, or weights that are not in the files.
    """
    try:
        graph = parse(content)
        return _Folding(graph, root, {} if given is None else given, block, known or {}).done()
    except (IndexError, ValueError, KeyError, struct.error) as exc:
        raise WeightsError(f"a graph whose weights cannot be folded: {exc}") from exc


class _Folding:
    """One graph while its weights are folded."""

    def __init__(
        self,
        graph: GraphContent,
        root: Path,
        given: dict[str, WeightMaker],
        block: int,
        known: Mapping[Origin, Floats],
    ) -> None:
        self._graph = graph
        self._root = root
        self._given = given
        self._block = block
        self._known = known
        self._by_origin: dict[Origin, Floats] = {}
        self._makers = {name: node for node in graph.nodes for name in node.outputs}
        # names that something else is done with than to multiply by them
        self._looked_at = {name for node in graph.nodes for name in self._looks_at(node)} | graph.outputs

    def done(self) -> FoldedGraph:
        weights = dict(self._folded())
        nodes, used = self._nodes_left(weights)
        for name in set(self._given) - used:
            del self._given[name]

        location = next((tensor.external["location"] for tensor in self._stored()), "")
        tensors = {name: tensor for name, tensor in self._graph.initializers.items() if name in used}
        for name, weight in weights.items():
            external = {"location": location, **_UNREADABLE}
            tensors[name] = Initializer(name=name, shape=weight.shape, dtype=FLOAT, external=external)

        around = self._graph.around
        if self._block:
            around += IMPORT
            nodes = list(with_blocked(nodes, {name: weight.shape for name, weight in weights.items()}, self._block))
        content = serialize(replace(self._graph, nodes=nodes, initializers=tensors, around=around))
        return FoldedGraph(content=content, weights=weights, by_origin=self._by_origin)

    def _stored(self) -> Iterator[Initializer]:
        return (tensor for tensor in self._graph.initializers.values() if tensor.external)

    def _folded(self) -> Iterator[tuple[str, Floats]]:
        """Folded weights by name, in the layout that their operations take."""
        takers = self._takers()
        _, used = self._nodes_left(takers)
        readers = Counter(stored for name in takers for stored in self._roots(name))

        for name, operations in takers.items():
            block = self._block if any(node.op == "Conv" for node in operations) else 0
            origin = (block, self._origin(name))
            weight = self._known.get(origin)
            if weight is None:
                value = self._value(name)
                if block and not all(is_blockable(node, value.shape, block) for node in operations):
                    continue  # ONNX Runtime may block it in a way of its own, for which it has to read it
                weight = blocked_weight(value, block) if block else np.ascontiguousarray(value, np.float32)
            self._by_origin[origin] = weight
            yield name, weight

            readers.subtract(self._roots(name))
            for stored in self._roots(name):
                if not readers[stored] and stored not in used:
                    self._given.pop(stored, None)  # else all of these were there twice in the end

    def _roots(self, name: str) -> list[str]:
        """The stored tensors that a constant value is made of."""
        if name in self._graph.initializers:
            return [name]
        return [stored for source in _sources(self._makers[name]) for stored in self._roots(source)]

    def _origin(self, name: str) -> Origin:
        """What a constant value is made of and how, the same for equal values in all graphs of a network."""
        tensor = self._graph.initializers.get(name)
        if tensor is not None:
            return (name, tensor.dtype, *sorted(tensor.external.items()))

        node = self._makers[name]
        sources = tuple(self._origin(source) for source in _sources(node))
        if node.op == "Cast":  # to float32, which all of them are in the end
            return sources[0]
        settings = tuple((key, *values) for key, values in sorted(node.integers.items()))
        shape = self._graph.initializers[node.inputs[1]].integers if node.op == "Reshape" else ()
        return (node.op, node.outputs.index(name), settings, shape, sources)

    def _takers(self) -> dict[str, list[Node]]:
        """The names of large weights that can be folded, and the operations that multiply by them."""
        found: dict[str, list[Node]] = {}
        for node in self._graph.nodes:
            if node.op not in _TAKERS:
                continue
            name = node.inputs[1]
            if name not in self._makers or name in self._looked_at:
                continue
            if self._is_constant(name) and self._size(name) >= _SMALLEST:
                found.setdefault(name, []).append(node)
        return found

    def _looks_at(self, node: Node) -> Iterator[str]:
        yield from node.captured
        for i, name in enumerate(node.inputs):
            is_multiplied = i == 1 and node.op in _TAKERS and not self._is_constant(node.inputs[0])
            if not is_multiplied:
                yield name

    def _is_constant(self, name: str) -> bool:
        """Whether a value follows from stored weights alone by what is done here."""
        tensor = self._graph.initializers.get(name)
        if tensor is not None:
            return tensor.dtype in _STORED and bool(tensor.external)
        node = self._makers.get(name)
        if node is None or node.op not in _FOLDED or not _is_plain(node, self._graph.initializers):
            return False
        return all(self._is_constant(source) for source in _sources(node))

    def _size(self, name: str) -> int:
        tensor = self._graph.initializers.get(name)
        if tensor is not None:
            return int(np.prod(tensor.shape))
        return sum(self._size(source) for source in _sources(self._makers[name]))

    def _value(self, name: str) -> np.ndarray:
        """A weight's values, in a number format that float32 holds all of."""
        tensor = self._graph.initializers.get(name)
        if tensor is not None:
            return self._read(tensor)

        node = self._makers[name]
        values = [self._value(source) for source in _sources(node)]
        if node.op == "Transpose":
            return values[0].transpose(node.integers["perm"])
        if node.op == "Reshape":
            return values[0].reshape(self._graph.initializers[node.inputs[1]].integers)
        if node.op == "Concat":
            return np.concatenate(values, axis=node.integers["axis"][0])
        if node.op == "Split":
            axis, parts = node.integers["axis"][0], len(node.outputs)
            size = -(-values[0].shape[axis] // parts)  # the last part may be smaller
            cuts = [size * count for count in range(1, parts)]
            return np.split(values[0], cuts, axis=axis)[node.outputs.index(name)]
        return values[0]  # a Cast to float32, which comes last, with one copy of the tensor in all

    def _read(self, tensor: Initializer) -> np.ndarray:
        """A stored tensor, or what is given in its place."""
        if tensor.name in self._given:
            return self._given[tensor.name]()
        dtype, bits = _STORED[tensor.dtype]
        count = int(np.prod(tensor.shape))
        path = self._path(tensor.external["location"])
        try:
            stored = np.fromfile(path, dtype, count, offset=int(tensor.external.get("offset", 0)))
        except OSError as exc:
            raise WeightsError(f"{path}: cannot be read ({exc.strerror})") from exc
        if len(stored) != count:
            raise WeightsError(f"{path}: does not hold all of {tensor.name}")

        values = stored.reshape(tensor.shape)
        return as_numbers(values, bits) if bits else values

    def _path(self, location: str) -> Path:
        """A weight file; ONNX Runtime, too, opens none outside of the folder."""
        path = Path(os.path.realpath(self._root / location))
        if not path.is_relative_to(os.path.realpath(self._root)):
            raise WeightsError(f"{path}: weights outside of {self._root}")
        return path

    def _nodes_left(self, weights: Collection[str]) -> tuple[list[Node], set[str]]:
        """The nodes that still compute something beside these weights, and all names that they use."""
        left: list[Node] = []
        used = set(self._graph.outputs)
        for node in reversed(self._graph.nodes):
            needed = [name for name in node.outputs if name in used and name not in weights]
            if node.op in _FOLDED and not needed and self._is_constant(node.outputs[0]):
                continue
            left.append(node)
            used.update(node.inputs, node.captured)
        return left[::-1], used


def _sources(node: Node) -> Sequence[str]:
    """The inputs of a folded operation that are weights."""
    return node.inputs if node.op == "Concat" else node.inputs[:1]


def _is_plain(node: Node, initializers: dict[str, Initializer]) -> bool:
    """Whether a folded operation is one of those that are understood here, down to its attributes."""
    if node.op == "Cast":
        return node.integers.get("to") == [FLOAT]
    if node.op == "Transpose":
        return "perm" in node.integers
    if node.op == "Split":
        return len(node.inputs) == 1 and "axis" in node.integers and "split" not in node.integers
    if node.op == "Reshape":
        shape = initializers.get(node.inputs[1])
        return shape is not None and bool(shape.integers) and 0 not in shape.integers
    return "axis" in node.integers
