"""One network → one ONNX graph, its weights left where they are.

torch's exporter writes the graph. Its optimizer would compute with the weights (and so write their values into the
graph), so they are inputs for it; afterwards each becomes an initializer that refers to the model's own file, cast to
the dtype of the network. ONNX Runtime does the casts once, when it loads the graph.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from intarsia.errors import WeightsError
from intarsia.export.forms import use_export_forms
from intarsia.export.rewrite import rewrite
from intarsia.export.stored import Stored

__all__ = ["PREFIX", "Signature", "quiet_exporter", "translate"]

PREFIX = "network."
"""A wrapper's attribute for the network that it exports, as parameter names have it."""

_DTYPES = {
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "F32": ir.DataType.FLOAT,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,
    "F8_E5M2": ir.DataType.FLOAT8E5M2,
}
_COMPUTED = {torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16}


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a graph.

    Attributes:
        inputs: an example of each, in the order of ``forward``.
        dynamic: for each input, which of its dimensions vary and what they are called.
        outputs: their names.
    """

    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    outputs: Sequence[str]


def translate(wrapper: nn.Module, places: Mapping[str, Sequence[Stored]], signature: Signature) -> bytes:
    """A serialized graph.

    Args:
        wrapper: has the network as ``network``, whose layers take the forms for export; its parameters' values are
            not read.
        places: by the network's parameter names.
    """
    use_export_forms(wrapper, cpu=_is_float32(wrapper))
    model = _exported(wrapper.eval(), signature)

    names = {PREFIX + name for name in places}
    weights = _as_inputs(model.graph, names)
    _optimize(model)
    if _is_float32(wrapper):
        rewrite(model)

    computed = {name: _COMPUTED[parameter.dtype] for name, parameter in wrapper.named_parameters()}
    for name, value in weights.items():
        parts = places[name.removeprefix(PREFIX)]
        _refer(model.graph, value, parts, computed[name])

    _strip(model, signature)
    proto = ir.to_proto(model)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _is_float32(wrapper: nn.Module) -> bool:
    """Whether the graph is for CPUs; float16 ones are for GPUs, whose kernels like other forms."""
    parameter = next(wrapper.parameters())
    return parameter.dtype == torch.float32


def _exported(wrapper: nn.Module, signature: Signature) -> ir.Model:
    examples = tuple(signature.inputs.values())
    dynamic = _dynamic_shapes(wrapper, signature)

    with torch.no_grad(), quiet_exporter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own future
        program = torch.export.export(wrapper, examples, dynamic_shapes=dynamic, strict=False)
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
        )
    model: ir.Model = exported.model
    return model


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without torch's lines, once a graph, about operations of torchvision that no network here has."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _dynamic_shapes(wrapper: nn.Module, signature: Signature) -> tuple[Any, ...]:
    """The dimensions of each input that vary; those of ``forward``'s ``*arguments`` are one tuple at the end."""
    shapes = []
    for name in signature.inputs:
        dimensions = signature.dynamic.get(name, {})
        shapes.append(dict.fromkeys(dimensions, Dim.DYNAMIC))

    parameters = inspect.signature(wrapper.forward).parameters.values()
    named = sum(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters)
    others = tuple(shapes[named:])
    if not others:
        return tuple(shapes)
    return (*shapes[:named], others)


def _as_inputs(graph: ir.Graph, names: set[str]) -> dict[str, ir.Value]:
    """Turn initializers into inputs without a value; returns them by name."""
    inputs = {name: value for name, value in graph.initializers.items() if name in names}
    for name, value in inputs.items():
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
    return inputs


def _optimize(model: ir.Model) -> None:
    from onnxscript import optimizer

    optimizer.optimize_ir(model, num_iterations=2, onnx_shape_inference=False)


def _refer(graph: ir.Graph, value: ir.Value, parts: Sequence[Stored], dtype: ir.DataType) -> None:
    """Replace an input by tensors in the model's files, one below the other."""
    graph.inputs.remove(value)
    if not value.uses():
        return

    weights = [_part(graph, part, value, len(parts), dtype) for part in parts]
    if len(weights) > 1:
        packed = ir.node("Concat", weights, attributes={"axis": 0})
        graph.insert_before(_first_user(graph, value), packed)
        weights = list(packed.outputs)
    ir.convenience.replace_all_uses_with(value, weights[0])


def _part(graph: ir.Graph, part: Stored, value: ir.Value, count: int, dtype: ir.DataType) -> ir.Value:
    if part.dtype not in _DTYPES:
        allowed = ", ".join(_DTYPES)
        raise WeightsError(f"{part.file}: {part.name} is stored as {part.dtype}; one of {allowed} is needed")

    # the parameter's own shape, which has the same bytes; part of a packed one keeps the stored shape
    shape = ir.Shape(part.shape)
    if count == 1 and not part.transposed and value.shape is not None:
        shape = ir.Shape(tuple(value.shape))

    stored = _DTYPES[part.dtype]
    tensor = ir.ExternalTensor(part.file, part.offset, part.length, stored, shape=shape, name=part.name)
    weight = ir.Value(name=part.name, shape=shape, type=ir.TensorType(stored), const_value=tensor)
    graph.register_initializer(weight)
    made: list[ir.Node] = []
    if stored != dtype:
        made.append(ir.node("Cast", [weight], attributes={"to": int(dtype)}))
        weight = made[-1].outputs[0]
    if part.transposed:
        made.append(ir.node("Transpose", [weight], attributes={"perm": [1, 0]}))
        weight = made[-1].outputs[0]
    if made:
        graph.insert_before(_first_user(graph, value), made)
    return weight


def _first_user(graph: ir.Graph, value: ir.Value) -> ir.Node:
    users = {id(use.node) for use in value.uses()}
    return next(node for node in graph if id(node) in users)


def _strip(model: ir.Model, signature: Signature) -> None:
    """Remove all that running does not need: sources' paths and lines, shapes in between; name the dimensions."""
    graph = model.graph
    model.metadata_props.clear()
    graph.metadata_props.clear()
    model.doc_string = graph.doc_string = None

    for node in graph:
        node.metadata_props.clear()
        node.doc_string = node.name = None
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.shape = value.type = None

    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()

    for value in graph.inputs:
        names = signature.dynamic.get(str(value.name), {})
        sides = value.shape or ()
        value.shape = ir.Shape(names.get(i, size) for i, size in enumerate(sides))
    for value in graph.outputs:
        value.shape = None
