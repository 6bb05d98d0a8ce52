"""Small tools for rewriting graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["SIZES", "Nodes", "attributes", "maker", "only_user"]

SIZES = 3
"""Resize's input for the size of the result; where it is left out, our networks enlarge to twice the size."""


class Nodes:
    """Makes nodes in front of another one."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self._graph, self._before = graph, before

    def make(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node's only output."""
        return self._insert(ir.node(kind, inputs, attributes=attributes))

    def copy(self, node: ir.Node, x: ir.Value) -> ir.Value:
        """A node once more, with ``x`` as its first input."""
        inputs = [x, *node.inputs[1:]]
        return self._insert(ir.node(node.op_type, inputs, attributes=node.attributes))

    def constant(self, value: Any) -> ir.Value:
        """An array in the graph."""
        return self.make("Constant", value=ir.tensor(np.asarray(value)))

    def slice(self, x: ir.Value, begin: int, end: int | None, axis: int) -> ir.Value:
        """``x[begin:end]`` along an axis."""
        if end is None:
            end = np.iinfo(np.int64).max
        starts = self.constant([begin])
        ends = self.constant([end])
        axes = self.constant([axis])
        return self.make("Slice", x, starts, ends, axes)

    def _insert(self, node: ir.Node) -> ir.Value:
        self._graph.insert_before(self._before, node)
        return node.outputs[0]


def maker(value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node that makes a value, where it is of that kind."""
    if value is None:
        return None
    node = value.producer()
    if node is None or node.op_type != kind:
        return None
    return node


def only_user(node: ir.Node) -> ir.Node | None:
    """The node that takes a node's output, where it is the only one."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output():
        return None
    return uses[0].node


def attributes(node: ir.Node) -> dict[str, Any]:
    """Values by name."""
    return {name: attribute.value for name, attribute in node.attributes.items()}
