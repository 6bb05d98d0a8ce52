"""Convolutions in the layout of ONNX Runtime's fastest kernels on a CPU, with weights that are brought into it here.

ONNX Runtime does the same (its NchwcTransformer), but holds all weights in both layouts until the whole graph is done.

A map ``[N, C, H, W]`` is stored as ``[N, C/b, H, W, b]``: a block of ``b`` channels fills a vector register. Operations
that know only the first layout stay as they are, with ``ReorderInput`` and ``ReorderOutput`` around each convolution.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from intarsia.backends.onnx.graph_content import FLOAT, Node, make_node, moved_node, operator_set
from intarsia.backends.onnx.protobuf import field, number_field

__all__ = ["IMPORT", "block_channels", "blocked_weight", "is_blockable", "with_blocked"]

Floats = NDArray[np.float32]

_DOMAIN = "com.microsoft.nchwc"
IMPORT = operator_set(_DOMAIN, 1)
"""What a model has to import for these operations."""

# Of ONNX: the versions of the format and of the operators of a model that is made here.
_IR_VERSION, _OPERATORS = 8, 17
# Blocks that the kernels of some processor have: 16 channels with AVX-512, else 8 on x86.
_BLOCKS = (4, 8, 16, 32)


def is_blockable(node: Node, shape: tuple[int, ...], block: int) -> bool:
    """Whether a convolution with a weight ``[O, I, h, w]`` is one that is blocked here.

    ONNX Runtime blocks some others too, of groups or with channels that fill no whole block; those are left to it.
    """
    if node.op != "Conv" or len(shape) != 4 or node.integers.get("group", [1]) != [1]:
        return False
    outputs, inputs = shape[:2]
    return outputs % block == 0 and (inputs % block == 0 or inputs < block)


def blocked_weight(weight: NDArray[Any], block: int) -> Floats:
    """The same numbers as float32 in the order of the blocked layout, still called ``[O, I, h, w]``.

    That is ``[O/b, I/b, h, w, b of I, b of O]``, or ``[O/b, I, h, w, b of O]`` where ``I`` fills no block.
    """
    outputs, inputs, height, width = weight.shape
    inner = block if inputs >= block else 1
    parts = weight.reshape(outputs // block, block, inputs // inner, inner, height, width)
    return parts.transpose(0, 2, 4, 5, 3, 1).astype(np.float32, order="C").reshape(weight.shape)


def with_blocked(nodes: Iterable[Node], shapes: dict[str, tuple[int, ...]], block: int) -> Iterator[Node]:
    """Nodes in which the convolutions with these weights, whose shapes are given by name, take the blocked layout."""
    # maps that are there in the blocked layout too, for several convolutions may take one
    reordered: dict[str, str] = {}
    for node in nodes:
        shape = shapes.get(node.inputs[1]) if node.op == "Conv" else None
        if shape is None:
            yield node
            continue

        source, (result,) = node.inputs[0], node.outputs
        if shape[1] >= block:  # a convolution of fewer channels takes its map as it is
            if source not in reordered:
                reordered[source] = f"{source}/blocked"
                integers = {"channels_last": 0}
                yield make_node("ReorderInput", (source,), (reordered[source],), domain=_DOMAIN, integers=integers)
            source = reordered[source]

        reordered[result] = f"{result}/blocked"
        yield moved_node(node, (source, *node.inputs[1:]), (reordered[result],), domain=_DOMAIN)
        integers = {"channels": shape[0], "channels_last": 0}
        yield make_node("ReorderOutput", (reordered[result],), (result,), domain=_DOMAIN, integers=integers)


@cache
def block_channels() -> int:
    """Channels of a block on this processor; 0 where ONNX Runtime has no such kernels, or orders weights otherwise.

    It does not say, so a convolution with known weights is given to it, and what it makes of them is looked at.
    """
    side = max(_BLOCKS)
    weight = np.arange(side * side * 6, dtype=np.float32).reshape(side, side, 2, 3)
    with _scratch_file() as path:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(_one_convolution(weight), options, providers=["CPUExecutionProvider"])
        optimized = path.read_bytes()
    found = [block for block in _BLOCKS if blocked_weight(weight, block).tobytes() in optimized]
    return found[0] if found else 0


@contextmanager
def _scratch_file() -> Iterator[Path]:
    """The path of a file for the block alone; on Linux in memory, as a container may have no folder for such files."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("optimized")
        try:
            yield Path(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "optimized.onnx")


def _one_convolution(weight: Floats) -> bytes:
    """A model of nothing but a convolution with a weight. Fields by their numbers in onnx.proto."""
    tensor = b"".join(number_field(1, count) for count in weight.shape)
    tensor += number_field(2, FLOAT) + field(8, b"w") + field(9, weight.tobytes())
    map_shape = b"".join(field(1, number_field(1, count)) for count in (1, weight.shape[1], 8, 8))
    source = field(1, b"x") + field(2, field(1, number_field(1, FLOAT) + field(2, map_shape)))
    result = field(1, b"y") + field(2, field(1, number_field(1, FLOAT)))

    convolution = make_node("Conv", ("x", "w"), ("y",), domain="", integers={})
    graph = convolution.whole + field(2, b"probe") + field(5, tensor) + field(11, source) + field(12, result)
    return number_field(1, _IR_VERSION) + field(7, graph) + operator_set("", _OPERATORS)
