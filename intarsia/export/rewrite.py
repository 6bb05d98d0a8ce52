"""The same mathematics in fewer operations, for ONNX Runtime's CPU kernels.

The graphs of torch's exporter are correct, but not the fastest: they are rewritten where one operation can replace
several, or the same result takes fewer multiplications.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from intarsia.export.chains import MEET, merge_stem, merge_tail
from intarsia.export.nodes import Nodes, attributes, maker

__all__ = ["rewrite"]

_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
# Resize's input for the size of the result; where it is left out, our networks enlarge to twice the size.
_SIZES = 3


def rewrite(model: ir.Model) -> None:
    """Rewrite a float32 graph in place, before its weights are in it."""
    graph = model.graph
    for node in list(graph):
        if node.op_type == "CastLike":
            _drop(graph, node)
    for node in list(graph):
        if node.op_type == "Add":
            _scale_and_shift(graph, node)
    convolutions = [node for node in graph if node.op_type == "Conv"]
    enlarged = [(maker(node.inputs[0], "Resize"), node) for node in convolutions if _is_plain(node)]
    if convolutions and not merge_stem(graph, convolutions[0]):
        merge_tail(graph, convolutions[-1])
    for resize, node in enlarged:
        if resize is not None and len(resize.outputs[0].uses()) == 1:
            _by_phases(graph, resize, node)


def _drop(graph: ir.Graph, cast: ir.Node) -> None:
    """The exporter's casts of a norm's weights to what they are multiplied with, which computes in their format."""
    source = cast.inputs[0]
    if source is not None:
        ir.convenience.replace_all_uses_with(cast.outputs[0], source)
        graph.remove(cast, safe=True)


def _scale_and_shift(graph: ir.Graph, add: ir.Node) -> None:
    """The affine part of a group normalization, ``x · scale + shift`` for each channel, in one pass over memory.

    It is inference's batch normalisation with mean 0 and variance 1.
    """
    mul, shift = maker(add.inputs[0], "Mul"), maker(add.inputs[1], "Unsqueeze")
    if mul is None or shift is None:
        return
    x, scale = mul.inputs[0], maker(mul.inputs[1], "Unsqueeze")
    if scale is None or maker(x, "Reshape") is None:
        return
    weight, bias = scale.inputs[0], shift.inputs[0]

    new = Nodes(graph, add)
    size = new.make("Shape", weight)
    zeros, ones = (new.make("Expand", new.constant(np.float32(value)), size) for value in (0, 1))
    normed = new.make("BatchNormalization", x, weight, bias, zeros, ones, epsilon=0.0)
    ir.convenience.replace_all_uses_with(add.outputs[0], normed)
    graph.remove([add, mul, shift, scale], safe=True)


def _is_plain(conv: ir.Node) -> bool:
    values = attributes(conv)
    return [list(values[name]) for name in ("kernel_shape", "pads", "strides")] == [[3, 3], [1] * 4, [1, 1]]


def _by_phases(graph: ir.Graph, resize: ir.Node, conv: ir.Node) -> None:
    """A 3x3 convolution of an image enlarged to twice its size, as four 2x2 convolutions of the image itself.

    Each makes every second row and column of the result, with 16 multiplications where there were 36. Where sizes are
    not twice the image's (odd ones), the graph falls back on the operations that it had.
    """
    x, (weight, *bias) = resize.inputs[0], conv.inputs[1:]
    new = Nodes(graph, conv)
    outputs = new.make("Slice", new.make("Shape", weight), *(new.constant([i]) for i in (0, 1)))
    flat = new.make("Reshape", weight, new.constant([-1, 9]))
    kernel_shape = new.make("Concat", new.make("Shape", weight, end=2), new.constant([2, 2]), axis=0)

    phases = []
    for row, column in _PHASES:
        meet = new.constant(np.kron(MEET[0][row], MEET[0][column]).T.astype(np.float32))
        kernel = new.make("Reshape", new.make("MatMul", flat, meet), kernel_shape)
        pads = [1 - row, 1 - column, row, column]
        phase = new.make("Conv", x, kernel, *bias, pads=pads, kernel_shape=[2, 2])
        phases.append(new.make("Unsqueeze", phase, new.constant([4])))

    # columns side by side, then rows
    rows = [new.make("Concat", *phases[i : i + 2], axis=4) for i in (0, 2)]
    double = new.make("Mul", new.make("Shape", x, start=2), new.constant([2]))
    wide = new.make("Concat", new.make("Shape", x, end=1), outputs, new.make("Shape", x, start=2), axis=0)
    wide = new.make("Mul", wide, new.constant([1, 1, 1, 2]))
    rows = [new.make("Reshape", value, wide) for value in rows]
    shape = new.make("Concat", new.make("Shape", x, end=1), outputs, double, axis=0)
    result = new.make("Reshape", new.make("Concat", *rows, axis=3), shape)

    if len(resize.inputs) > _SIZES:
        result = _unless_odd(new, result, double, resize, conv)
    ir.convenience.replace_all_uses_with(conv.outputs[0], result)
    graph.remove([conv, resize], safe=True)


def _unless_odd(new: Nodes, result: ir.Value, double: ir.Value, resize: ir.Node, conv: ir.Node) -> ir.Value:
    """``result`` where the enlarged size is ``double`` the image's, else the convolution of the enlarged image."""
    x, sizes = resize.inputs[0], resize.inputs[_SIZES]
    size = new.make("Slice", sizes, new.constant([2]), new.constant([4]))
    is_double = new.make("Cast", new.make("Equal", size, double), to=ir.DataType.INT64)
    fits = new.make("ReduceMin", is_double, keepdims=0)

    taken = ir.node("Identity", [result])
    enlarged = ir.node("Resize", [x, None, None, sizes], attributes=resize.attributes)
    convolved = ir.node("Conv", [enlarged.outputs[0], *conv.inputs[1:]], attributes=conv.attributes)
    branches = {}
    for name, nodes in (("then_branch", [taken]), ("else_branch", [enlarged, convolved])):
        for i, node in enumerate(nodes):
            node.outputs[0].name = f"{conv.outputs[0].name}_{name}_{i}"
        branches[name] = ir.Graph([], list(nodes[-1].outputs), nodes=nodes, name=name)
    return new.make("If", new.make("Cast", fits, to=ir.DataType.BOOL), **branches)
