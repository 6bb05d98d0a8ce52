"""The same mathematics in fewer operations, for ONNX Runtime's CPU kernels.

What torch's exporter writes is right and leaves some speed: its graphs are rewritten where one operation can do what
several did, or the same result takes fewer multiplications.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from intarsia.export.chains import MEET, merge_stem, merge_tail
from intarsia.export.nodes import Nodes, attributes, maker

__all__ = ["rewrite"]

_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
# Which of Resize's inputs says the size of the result; where it is left out, our networks enlarge to twice the size.
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
    """What follows a group normalisation, ``x · scale + shift`` for each channel, in one pass over memory.

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
    made = new.make("BatchNormalization", x, weight, bias, zeros, ones, epsilon=0.0)
    ir.convenience.replace_all_uses_with(add.outputs[0], made)
    graph.remove([add, mul, shift, scale], safe=True)


def _is_plain(conv: ir.Node) -> bool:
    found = attributes(conv)
    return [list(found[name]) for name in ("kernel_shape", "pads", "strides")] == [[3, 3], [1] * 4, [1, 1]]


def _by_phases(graph: ir.Graph, resize: ir.Node, conv: ir.Node) -> None:
    """A 3x3 convolution of a picture enlarged to twice its size, as four 2x2 convolutions of the picture itself.

    Each makes every second row and column of the result, with 16 multiplications where there were 36. Where sizes are
    not twice the picture's (odd ones), the graph falls back on what was there.
    """
    x, (weight, *bias) = resize.inputs[0], conv.inputs[1:]
    new = Nodes(graph, conv)
    outputs = new.make("Slice", new.make("Shape", weight), *(new.constant([i]) for i in (0, 1)))
    flat = new.make("Reshape", weight, new.constant([-1, 9]))
    kernel = new.make("Concat", new.make("Shape", weight, end=2), new.constant([2, 2]), axis=0)
    parts = []
    for row, column in _PHASES:
        meet = new.constant(np.kron(MEET[0][row], MEET[0][column]).T.astype(np.float32))
        taps = new.make("Reshape", new.make("MatMul", flat, meet), kernel)
        pads = [1 - row, 1 - column, row, column]
        part = new.make("Conv", x, taps, *bias, pads=pads, kernel_shape=[2, 2])
        parts.append(new.make("Unsqueeze", part, new.constant([4])))
    rows = [new.make("Concat", *parts[i : i + 2], axis=4) for i in (0, 2)]
    double = new.make("Mul", new.make("Shape", x, start=2), new.constant([2]))
    wide = new.make("Concat", new.make("Shape", x, end=1), outputs, new.make("Shape", x, start=2), axis=0)
    wide = new.make("Mul", wide, new.constant([1, 1, 1, 2]))
    rows = [new.make("Reshape", value, wide) for value in rows]
    shape = new.make("Concat", new.make("Shape", x, end=1), outputs, double, axis=0)
    made = new.make("Reshape", new.make("Concat", *rows, axis=3), shape)
    if len(resize.inputs) > _SIZES:
        made = _unless_odd(new, made, double, resize, conv)
    ir.convenience.replace_all_uses_with(conv.outputs[0], made)
    graph.remove([conv, resize], safe=True)


def _unless_odd(new: Nodes, made: ir.Value, double: ir.Value, resize: ir.Node, conv: ir.Node) -> ir.Value:
    """``made`` where the enlarged size is ``double`` the picture's, else the convolution of the enlarged picture."""
    x, sizes = resize.inputs[0], resize.inputs[_SIZES]
    wanted = new.make("Slice", sizes, new.constant([2]), new.constant([4]))
    fits = new.make("ReduceMin", new.make("Cast", new.make("Equal", wanted, double), to=ir.DataType.INT64), keepdims=0)
    short = ir.node("Identity", [made])
    enlarged = ir.node("Resize", [x, None, None, sizes], attributes=resize.attributes)
    long = ir.node("Conv", [enlarged.outputs[0], *conv.inputs[1:]], attributes=conv.attributes)
    branches = {}
    for name, nodes in (("then_branch", [short]), ("else_branch", [enlarged, long])):
        for i, node in enumerate(nodes):
            node.outputs[0].name = f"{conv.outputs[0].name}_{name}_{i}"
        branches[name] = ir.Graph([], list(nodes[-1].outputs), nodes=nodes, name=name)
    return new.make("If", new.make("Cast", fits, to=ir.DataType.BOOL), **branches)
