"""The same mathematics in fewer operations, for ONNX Runtime's CPU kernels.

The graphs of torch's exporter are correct, but not the fastest: they are rewritten where one operation can replace
several, or the same result takes fewer multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from intarsia.export.chains import MEET, merge_stem, merge_tail
from intarsia.export.nodes import SIZES, Nodes, attributes, maker

__all__ = ["rewrite"]

_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))


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
    mul = maker(add.inputs[0], "Mul")
    shift = maker(add.inputs[1], "Unsqueeze")
    if mul is None or shift is None:
        return

    x = mul.inputs[0]
    scale = maker(mul.inputs[1], "Unsqueeze")
    if scale is None or maker(x, "Reshape") is None:
        return

    weight = scale.inputs[0]
    bias = shift.inputs[0]

    new = Nodes(graph, add)
    size = new.make("Shape", weight)
    mean = new.make("Expand", new.constant(np.float32(0)), size)
    variance = new.make("Expand", new.constant(np.float32(1)), size)
    normed = new.make("BatchNormalization", x, weight, bias, mean, variance, epsilon=0.0)
    ir.convenience.replace_all_uses_with(add.outputs[0], normed)
    graph.remove([add, mul, shift, scale], safe=True)


def _is_plain(conv: ir.Node) -> bool:
    """Whether a convolution is 3x3, pads by one and has no stride."""
    values = attributes(conv)
    required = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
    return all(list(values[name]) == value for name, value in required.items())


def _by_phases(graph: ir.Graph, resize: ir.Node, conv: ir.Node) -> None:
    """A 3x3 convolution of an image enlarged to twice its size, as four 2x2 convolutions of the image itself.

    Each makes every second row and column of the result, with 16 multiplications where there were 36. Where sizes are
    not twice the image's (odd ones), the graph falls back on the operations that it had.
    """
    x = resize.inputs[0]
    weight, *bias = conv.inputs[1:]
    new = Nodes(graph, conv)
    weight_shape = new.make("Shape", weight)
    channels = new.make("Slice", weight_shape, new.constant([0]), new.constant([1]))
    flat = new.make("Reshape", weight, new.constant([-1, 9]))
    weight_channels = new.make("Shape", weight, end=2)
    kernel_shape = new.make("Concat", weight_channels, new.constant([2, 2]), axis=0)

    phases = []
    for row, column in _PHASES:
        taps = np.kron(MEET[0][row], MEET[0][column])
        meet = new.constant(taps.T.astype(np.float32))
        product = new.make("MatMul", flat, meet)
        kernel = new.make("Reshape", product, kernel_shape)
        pads = [1 - row, 1 - column, row, column]
        phase = new.make("Conv", x, kernel, *bias, pads=pads, kernel_shape=[2, 2])
        phases.append(new.make("Unsqueeze", phase, new.constant([4])))

    result, double = _interleaved(new, phases, x, channels)
    if len(resize.inputs) > SIZES:
        result = _unless_odd(new, result, double, resize, conv)
    ir.convenience.replace_all_uses_with(conv.outputs[0], result)
    graph.remove([conv, resize], safe=True)


def _interleaved(
    new: Nodes, phases: Sequence[ir.Value], x: ir.Value | None, channels: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """An image of twice the size, and that size, from the four phases ``[B, C, H, W, 1]`` of each of its pixels.

    Args:
        x: the image of the size before.
        channels: ``[1]``, how many the phases have.
    """
    even_rows = new.make("Concat", *phases[:2], axis=4)
    odd_rows = new.make("Concat", *phases[2:], axis=4)
    size = new.make("Shape", x, start=2)
    double = new.make("Mul", size, new.constant([2]))

    # columns side by side: [B, C, H, W, 2] → [B, C, H, 2 W]
    batch = new.make("Shape", x, end=1)
    size = new.make("Shape", x, start=2)
    narrow_shape = new.make("Concat", batch, channels, size, axis=0)
    wide_shape = new.make("Mul", narrow_shape, new.constant([1, 1, 1, 2]))
    even_rows = new.make("Reshape", even_rows, wide_shape)
    odd_rows = new.make("Reshape", odd_rows, wide_shape)

    # then rows: [B, C, H, 4 W] → [B, C, 2 H, 2 W]
    batch = new.make("Shape", x, end=1)
    double_shape = new.make("Concat", batch, channels, double, axis=0)
    rows = new.make("Concat", even_rows, odd_rows, axis=3)
    return new.make("Reshape", rows, double_shape), double


def _unless_odd(new: Nodes, result: ir.Value, double: ir.Value, resize: ir.Node, conv: ir.Node) -> ir.Value:
    """``result`` where the enlarged size is ``double`` the image's, else the convolution of the enlarged image."""
    x = resize.inputs[0]
    sizes = resize.inputs[SIZES]
    size = new.make("Slice", sizes, new.constant([2]), new.constant([4]))
    equal = new.make("Equal", size, double)
    # ReduceMin takes no booleans
    equal = new.make("Cast", equal, to=ir.DataType.INT64)
    both_equal = new.make("ReduceMin", equal, keepdims=0)

    identity = ir.node("Identity", [result])
    enlarged = ir.node("Resize", [x, None, None, sizes], attributes=resize.attributes)
    weights = conv.inputs[1:]
    convolved = ir.node("Conv", [enlarged.outputs[0], *weights], attributes=conv.attributes)

    prefix = str(conv.outputs[0].name)
    then_branch = _branch("then_branch", [identity], prefix)
    else_branch = _branch("else_branch", [enlarged, convolved], prefix)
    condition = new.make("Cast", both_equal, to=ir.DataType.BOOL)
    return new.make("If", condition, then_branch=then_branch, else_branch=else_branch)


def _branch(name: str, nodes: Sequence[ir.Node], prefix: str) -> ir.Graph:
    """A graph of one operation behind the other, whose values get names that begin with ``prefix``."""
    for i, node in enumerate(nodes):
        node.outputs[0].name = f"{prefix}_{name}_{i}"
    outputs = list(nodes[-1].outputs)
    return ir.Graph([], outputs, nodes=nodes, name=name)
