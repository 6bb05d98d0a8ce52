"""Convolutions with nothing between them, as one.

A small autoencoder begins, or ends, with 3x3 convolutions that follow each other directly. Their composition is one
convolution too, of a larger kernel, and where few channels go in (an image's) or come out, it takes far fewer
multiplications. Only at the borders it is not the same: there, each convolution pads the result of the one before with
zeros, where the composition would continue it outside. So the rows and columns at the borders are computed as they
were, from strips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from intarsia.export.nodes import SIZES, Nodes, attributes, maker, only_user

__all__ = ["MEET", "merge_stem", "merge_tail"]

MEET = (
    np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]]),
    np.array(
        [
            [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
            [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]],
        ]
    ),
)
"""Which rows of a kernel of 3, and of 5, meet the same row of an image that is enlarged to twice its size before the
convolution: ``[phase, row of the image, row of the kernel]``. Phase 0 are even rows of the result, 1 odd ones."""

_ROWS, _COLUMNS = 2, 3
_ONE, _TWO = [1, 1], [2, 2]


def merge_stem(graph: ir.Graph, first: ir.Node) -> bool:
    """A 3x3 convolution and the strided ones behind it, each halving the image; whether there was such a chain.

    Sides are multiples of twice the chain's stride.
    """
    chain = [first]
    while (node := only_user(chain[-1])) is not None and _is(node, strides=_TWO):
        chain.append(node)
    strided = len(chain) - 1
    if not _is(first, strides=_ONE) or strided == 0:
        return False

    new = Nodes(graph, chain[-1])
    x = first.inputs[0]
    assert x is not None

    stride = 2**strided
    size = 2 * stride + 1
    strides_before = [2**i for i in range(strided)]
    weight, bias = _composed(new, chain, strides_before)

    # from the second row and column on; the last ones read the first convolution's own zeros
    inner = new.make(
        "Conv",
        x,
        weight,
        *bias,
        strides=[stride, stride],
        pads=[0, 0, 1, 1],
        kernel_shape=[size, size],
    )

    top = _first(new, chain, x, needed=2 * stride, axis=_ROWS)
    left = _first(new, chain, x, needed=2 * stride, axis=_COLUMNS)
    left = new.slice(left, 1, None, _ROWS)  # without the corner, which the row has

    below = new.make("Concat", left, inner, axis=_COLUMNS)
    result = new.make("Concat", top, below, axis=_ROWS)
    _replace(graph, chain, result)
    return True


def merge_tail(graph: ir.Graph, last: ir.Node) -> bool:
    """Enlargement to twice the size and two 3x3 convolutions, as one 3x3 convolution of the image before, which makes
    the four pixels that each of its pixels becomes; whether there was such a chain.

    It has four times as many outputs, so only the last convolution of a graph, which makes an image, is worth it.
    """
    chain = _tail(last)
    if chain is None:
        return False

    resize, *convolutions = chain
    new = Nodes(graph, last)
    x = resize.inputs[0]
    assert x is not None

    inner = _enlarging_convolution(new, x, convolutions)
    inner = new.slice(inner, 1, -1, _ROWS)
    inner = new.slice(inner, 1, -1, _COLUMNS)

    top, bottom = _borders(new, chain, x, _ROWS)
    left, right = _borders(new, chain, x, _COLUMNS)

    # without the corners, which the rows have
    left = new.slice(left, 1, -1, _ROWS)
    right = new.slice(right, 1, -1, _ROWS)

    between = new.make("Concat", left, inner, right, axis=_COLUMNS)
    result = new.make("Concat", top, between, bottom, axis=_ROWS)
    _replace(graph, chain, result)
    return True


def _tail(last: ir.Node) -> list[ir.Node] | None:
    """The enlargement and the two convolutions behind it, where a graph ends in these."""
    middle = maker(last.inputs[0], "Conv")
    if middle is None:
        return None
    resize = maker(middle.inputs[0], "Resize")
    if resize is None or len(resize.inputs) > SIZES:
        return None

    if only_user(resize) is not middle or only_user(middle) is not last:
        return None
    if not _is(middle, strides=_ONE) or not _is(last, strides=_ONE):
        return None
    return [resize, middle, last]


def _enlarging_convolution(new: Nodes, x: ir.Value, convolutions: Sequence[ir.Node]) -> ir.Value:
    """The two convolutions of the enlarged image as one of the image itself, wrong at the borders alone."""
    weight, bias = _composed(new, convolutions, [1])

    # which of 5 x 5 taps add up to which of 3 x 3, for each of the 2 x 2 pixels
    meet = MEET[1]
    taps = np.einsum("pax,qby->xypqab", meet, meet)
    taps = taps.reshape(25, 36).astype(np.float32)

    # [out, in, 5, 5] → [out, in, 4, 3, 3]: a kernel for each of the four pixels
    sides = new.make("Shape", weight, end=2)
    flat = new.make("Reshape", weight, new.constant([-1, 25]))
    phases_shape = new.make("Concat", sides, new.constant([4, 3, 3]), axis=0)
    product = new.make("MatMul", flat, new.constant(taps))
    phases = new.make("Reshape", product, phases_shape)

    # → [4 out, in, 3, 3]
    phases = new.make("Transpose", phases, perm=[0, 2, 1, 3, 4])
    channels = new.slice(sides, 1, None, 0)
    kernel_shape = new.make("Concat", new.constant([-1]), channels, new.constant([3, 3]), axis=0)
    biases = [_four_times(new, value) for value in bias]
    kernel = new.make("Reshape", phases, kernel_shape)

    pixels = new.make("Conv", x, kernel, *biases, pads=[1] * 4, kernel_shape=[3, 3])
    return new.make("DepthToSpace", pixels, blocksize=2, mode="CRD")


def _four_times(new: Nodes, bias: ir.Value) -> ir.Value:
    """``[out]`` → ``[4 out]``, each value beside its copies."""
    column = new.make("Unsqueeze", bias, new.constant([1]))
    columns = new.make("Expand", column, new.constant([1, 4]))
    return new.make("Reshape", columns, new.constant([-1]))


def _borders(new: Nodes, chain: Sequence[ir.Node], x: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
    """The first and the last row, or column, of what a chain makes of ``x``."""
    first = _first(new, chain, x, needed=2, axis=axis)
    end = new.slice(x, -2, None, axis)
    last = _strip(new, chain, end, -1, None, axis)
    return first, last


def _first(new: Nodes, chain: Sequence[ir.Node], x: ir.Value, *, needed: int, axis: int) -> ir.Value:
    """The first row, or column, of what a chain makes of ``x``, which the first ``needed`` of ``x`` are enough for."""
    begin = new.slice(x, 0, needed, axis)
    return _strip(new, chain, begin, 0, 1, axis)


def _is(node: ir.Node, strides: list[int]) -> bool:
    """Whether a node is a 3x3 convolution with these strides that pads by one."""
    if node.op_type != "Conv":
        return False
    actual = attributes(node)
    required = {
        "kernel_shape": [3, 3],
        "pads": [1, 1, 1, 1],
        "strides": strides,
        "dilations": _ONE,
        "group": 1,
    }
    # what a node does not say is as required
    return all(_plain(actual.get(name, value)) == value for name, value in required.items())


def _plain(value: object) -> object:
    """A number, or a list of numbers."""
    if isinstance(value, int):
        return value
    return list(value)  # type: ignore[call-overload]


def _composed(new: Nodes, chain: Sequence[ir.Node], strides: Sequence[int]) -> tuple[ir.Value, list[ir.Value]]:
    """Weight and bias (or none) of a chain; ``strides`` of everything before each convolution but the first."""
    first, *others = chain
    weight, bias = _parameters(first)
    for node, stride in zip(others, strides, strict=True):
        outer, outer_bias = _parameters(node)
        if bias:
            # the inner bias is a constant image, of which each output channel takes the sum of its taps
            tap_sums = new.make("ReduceSum", outer, new.constant([_ROWS, _COLUMNS]), keepdims=0)
            bias = [new.make("MatMul", tap_sums, bias[0])]

        if bias and outer_bias:
            bias = [new.make("Add", bias[0], outer_bias[0])]
        elif outer_bias:
            bias = outer_bias

        # each tap of the outer kernel adds the inner one, shifted
        weight = new.make("ConvTranspose", outer, weight, strides=[stride, stride])
    return weight, bias


def _parameters(conv: ir.Node) -> tuple[ir.Value, list[ir.Value]]:
    """A convolution's weight, and its bias or nothing."""
    weight, *bias = (value for value in conv.inputs[1:] if value is not None)
    return weight, bias


def _strip(new: Nodes, chain: Sequence[ir.Node], x: ir.Value, begin: int, end: int | None, axis: int) -> ir.Value:
    """Rows, or columns, ``begin`` to ``end`` of what a chain makes of a strip."""
    for node in chain:
        x = new.copy(node, x)
    return new.slice(x, begin, end, axis)


def _replace(graph: ir.Graph, chain: Sequence[ir.Node], made: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(chain[-1].outputs[0], made)
    graph.remove(chain[::-1], safe=True)
