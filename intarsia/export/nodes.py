"""Small tools for rewriting graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["Nodes", "attributes", "maker", "only_user"]


class Nodes:
    """Makes nodes in front of another one."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self._graph, self._before = graph, before

    def make(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node's only output."""
        return self._insert(ir.node(kind, inputs, attributes=attributes))

    def copy(self, node: ir.Node, x: ir.Value) -> ir.Value:
        """A node once more, with ``x`` as its first input."""
        return self._insert(ir.node(node.op_type, [x, *node.inputs[1:]], attributes=node.attributes))

    def constant(self, value: Any) -> ir.Value:
        """An array in the graph."""
        return self.make("Constant", value=ir.tensor(np.asarray(value)))

    def slice(self, x: ir.Value, begin: int, end: int | None, axis: int) -> ir.Value:
        """``x[begin:end]`` along an axis."""
        stop = np.iinfo(np.int64).max if end is None else end
        starts, ends, axes = self.constant([begin]), self.constant([stop]), self.constant([axis])
        return self.make("Slice", x, starts, ends, axes)

    def _insert(self, node: ir.Node) -> ir.Value:
        self._graph.insert_before(self._before, node)
        return node.outputs[0]


def maker(value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node that makes a value, where it is of that kind."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != kind:
        return None
    return node


def only_user(node: ir.Node) -> ir.Node | None:
    """The node that takes a node's output, where it is the only one."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    return uses[0].node


def attributes(node: ir.Node) -> dict[str, Any]:
    """Values by name."""
    return {name: attribute.value for name, attribute in node.attributes.items()}
