"""Convolutions with nothing between them, as one.

A small autoencoder begins, or ends, with 3x3 convolutions that follow each other directly. Their composition is one
convolution too, of a larger kernel, and where few channels go in (a picture's) or come out, it takes far fewer
multiplications. Only at the borders it is not the same: there, each convolution pads what the one before found with
zeros, where the composition would go on with what that one would have found outside. So the rows and columns at the
borders are computed as they were, from strips.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from intarsia.export.nodes import Nodes, attributes, maker, only_user

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
"""Which rows of a kernel of 3, and of 5, meet the same row of a picture that is enlarged to twice its size before the
convolution: ``[phase, row of the picture, row of the kernel]``. Phase 0 are even rows of the result, 1 odd ones."""

_ROWS, _COLUMNS = 2, 3
_ONE, _TWO = [1, 1], [2, 2]


def merge_stem(graph: ir.Graph, first: ir.Node) -> bool:
    """A 3x3 convolution and the strided ones behind it, each halving the picture; whether there was such a chain.

    Sides are multiples of twice the chain's stride.
    """
    chain = [first]
    while (node := only_user(chain[-1])) is not None and _is(node, strides=_TWO):
        chain.append(node)
    if not _is(first, strides=_ONE) or len(chain) == 1:
        return False
    new, x, stride = Nodes(graph, chain[-1]), first.inputs[0], 2 ** (len(chain) - 1)
    assert x is not None
    weight, bias = _composed(new, chain, [2**i for i in range(len(chain) - 1)])
    size = 2 * stride + 1
    # from the second row and column on; the last ones see the first convolution's own zeros
    inner = new.make("Conv", x, weight, *bias, strides=[stride] * 2, pads=[0, 0, 1, 1], kernel_shape=[size] * 2)
    top, left = (_strip(new, chain, new.slice(x, 0, 2 * stride, axis), 0, 1, axis) for axis in (_ROWS, _COLUMNS))
    below = new.make("Concat", new.slice(left, 1, None, _ROWS), inner, axis=_COLUMNS)
    _replace(graph, chain, new.make("Concat", top, below, axis=_ROWS))
    return True


def merge_tail(graph: ir.Graph, last: ir.Node) -> bool:
    """Enlargement to twice the size and two 3x3 convolutions, as one 3x3 of the picture before, which makes the four
    places that each of its places becomes; whether there was such a chain.

    Takes as many outputs four times, so only the last convolution of a graph, which makes a picture, is worth it.
    """
    middle = maker(last.inputs[0], "Conv")
    resize = maker(middle.inputs[0], "Resize") if middle is not None else None
    if middle is None or resize is None or len(resize.inputs) > _ROWS + 1:
        return False
    chain = [resize, middle, last]
    linked = all(only_user(one) is other for one, other in pairwise(chain))
    if not linked or not all(_is(node, strides=_ONE) for node in chain[1:]):
        return False
    new, x = Nodes(graph, last), resize.inputs[0]
    assert x is not None
    weight, bias = _composed(new, chain[1:], [1])
    taps = np.einsum("pax,qby->xypqab", MEET[1], MEET[1]).reshape(25, 36).astype(np.float32)
    sides = new.make("Shape", weight, end=2)
    flat = new.make("Reshape", weight, new.constant([-1, 25]))
    apart = new.make("Concat", sides, new.constant([4, 3, 3]), axis=0)
    phases = new.make("Reshape", new.make("MatMul", flat, new.constant(taps)), apart)
    phases = new.make("Transpose", phases, perm=[0, 2, 1, 3, 4])
    channels = new.slice(sides, 1, None, 0)
    kernel = new.make("Concat", new.constant([-1]), channels, new.constant([3, 3]), axis=0)
    repeated = [
        new.make("Reshape", new.make("Expand", new.make("Unsqueeze", each, new.constant([1])), new.constant([1, 4])),
                 new.constant([-1]))
        for each in bias
    ]  # fmt: skip
    made = new.make("Conv", x, new.make("Reshape", phases, kernel), *repeated, pads=[1] * 4, kernel_shape=[3, 3])
    made = new.make("DepthToSpace", made, blocksize=2, mode="CRD")
    inner = new.slice(new.slice(made, 1, -1, _ROWS), 1, -1, _COLUMNS)
    ends = [
        (
            _strip(new, chain, new.slice(x, 0, 2, axis), 0, 1, axis),
            _strip(new, chain, new.slice(x, -2, None, axis), -1, None, axis),
        )
        for axis in (_ROWS, _COLUMNS)
    ]
    left, right = (new.slice(strip, 1, -1, _ROWS) for strip in ends[1])
    between = new.make("Concat", left, inner, right, axis=_COLUMNS)
    _replace(graph, chain, new.make("Concat", ends[0][0], between, ends[0][1], axis=_ROWS))
    return True


def _is(node: ir.Node, strides: list[int]) -> bool:
    """Whether a node is a 3x3 convolution with these strides that pads by one."""
    if node.op_type != "Conv":
        return False
    found = attributes(node)
    wanted = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": strides, "dilations": _ONE, "group": 1}
    return all(_plain(found.get(name, value)) == value for name, value in wanted.items())


def _plain(value: object) -> object:
    return value if isinstance(value, int) else list(value)  # type: ignore[call-overload]


def _composed(new: Nodes, chain: Sequence[ir.Node], strides: Sequence[int]) -> tuple[ir.Value, list[ir.Value]]:
    """Weight and bias (or none) of a chain; ``strides`` of everything before each convolution but the first."""
    (weight, *bias) = (value for value in chain[0].inputs[1:] if value is not None)
    for node, stride in zip(chain[1:], strides, strict=True):
        (outer, *own) = (value for value in node.inputs[1:] if value is not None)
        if bias:
            sums = new.make("ReduceSum", outer, new.constant([_ROWS, _COLUMNS]), keepdims=0)
            bias = [new.make("MatMul", sums, bias[0])]
        bias = [new.make("Add", bias[0], own[0])] if bias and own else bias or own
        # each tap of the outer kernel puts the inner one in its place
        weight = new.make("ConvTranspose", outer, weight, strides=[stride] * 2)
    return weight, bias


def _strip(new: Nodes, chain: Sequence[ir.Node], x: ir.Value, begin: int, end: int | None, axis: int) -> ir.Value:
    """What the chain makes of a strip, and of that the rows or columns that are wanted."""
    for node in chain:
        x = new.copy(node, x)
    return new.slice(x, begin, end, axis)


def _replace(graph: ir.Graph, chain: Sequence[ir.Node], made: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(chain[-1].outputs[0], made)
    graph.remove(chain[::-1], safe=True)
