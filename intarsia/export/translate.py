"""One network → one ONNX graph, its weights left where they are.

torch's exporter writes the graph. Its optimiser would compute with the weights (and so write what they are into the
graph), so they are shown to it as inputs; afterwards each becomes an initializer that refers to the model's own file,
cast to what the network computes in. ONNX Runtime does the casts once, when it loads the graph.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
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

__all__ = ["PREFIX", "Signature", "translate"]

PREFIX = "network."
"""What a wrapper calls the network that it exports."""

_DTYPES = {"F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16, "F32": ir.DataType.FLOAT}
_COMPUTED = {torch.float32: ir.DataType.FLOAT, torch.float16: ir.DataType.FLOAT16}


@dataclass(frozen=True)
class Signature:
    """What goes in and comes out.

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
    weights = _as_inputs(model.graph, {PREFIX + name for name in places})
    _optimise(model)
    if _is_float32(wrapper):
        rewrite(model)
    computed = {name: _COMPUTED[parameter.dtype] for name, parameter in wrapper.named_parameters()}
    for name, value in weights.items():
        _refer(model.graph, value, places[name.removeprefix(PREFIX)], computed[name])
    _strip(model, signature)
    content: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return content


def _is_float32(wrapper: nn.Module) -> bool:
    """Whether the graph is for CPUs; float16 ones are for GPUs, whose kernels like other forms."""
    return next(wrapper.parameters()).dtype == torch.float32


def _exported(wrapper: nn.Module, signature: Signature) -> ir.Model:
    shapes = [dict.fromkeys(signature.dynamic.get(name, {}), Dim.DYNAMIC) for name in signature.inputs]
    named = sum(kind.kind is not kind.VAR_POSITIONAL for kind in inspect.signature(wrapper.forward).parameters.values())
    dynamic = (*shapes[:named], *([tuple(shapes[named:])] if shapes[named:] else ()))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own future
        program = torch.export.export(wrapper, tuple(signature.inputs.values()), dynamic_shapes=dynamic, strict=False)
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
        )
    model: ir.Model = made.model
    return model


def _as_inputs(graph: ir.Graph, names: set[str]) -> dict[str, ir.Value]:
    """Turn initializers into inputs without a value; returns them by name."""
    found = {name: value for name, value in graph.initializers.items() if name in names}
    for name, value in found.items():
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
    return found


def _optimise(model: ir.Model) -> None:
    from onnxscript import optimizer

    optimizer.optimize_ir(model, num_iterations=2, onnx_shape_inference=False)


def _refer(graph: ir.Graph, value: ir.Value, parts: Sequence[Stored], dtype: ir.DataType) -> None:
    """Replace an input by what lies in the model's files."""
    graph.inputs.remove(value)
    if not value.uses():
        return
    made = [_part(graph, part, value, len(parts), dtype) for part in parts]
    if len(made) > 1:
        packed = ir.node("Concat", made, attributes={"axis": 0})
        graph.insert_before(_first_user(graph, value), packed)
        made = list(packed.outputs)
    ir.convenience.replace_all_uses_with(value, made[0])


def _part(graph: ir.Graph, part: Stored, value: ir.Value, count: int, dtype: ir.DataType) -> ir.Value:
    if part.dtype not in _DTYPES:
        raise WeightsError(f"{part.file}: {part.name} is stored as {part.dtype}; one of {', '.join(_DTYPES)} is needed")
    # the parameter's own shape, which says the same bytes; part of a packed one has its own
    shape = ir.Shape(part.shape if count > 1 or value.shape is None else tuple(value.shape))
    stored = _DTYPES[part.dtype]
    tensor = ir.ExternalTensor(part.file, part.offset, part.length, stored, shape=shape, name=part.name)
    found = ir.Value(name=part.name, shape=shape, type=ir.TensorType(stored), const_value=tensor)
    graph.register_initializer(found)
    if stored == dtype:
        return found
    cast = ir.node("Cast", [found], attributes={"to": int(dtype)})
    graph.insert_before(_first_user(graph, value), cast)
    return cast.outputs[0]


def _first_user(graph: ir.Graph, value: ir.Value) -> ir.Node:
    users = {id(use.node) for use in value.uses()}
    return next(node for node in graph if id(node) in users)


def _strip(model: ir.Model, signature: Signature) -> None:
    """Leave out what running does not need: sources' paths and lines, shapes in between; name the dimensions."""
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
        value.shape = ir.Shape(names.get(i, size) for i, size in enumerate(value.shape or ()))
    for value in graph.outputs:
        value.shape = None
