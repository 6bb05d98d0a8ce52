"""A row of any table as one small graph: guidance, solver, known region, and the network's next input.

It is the same for every model and scheduler: sizes are dynamic, and what differs is in the row
(:mod:`intarsia.backends.onnx.state` makes them). ``python -m intarsia.export.step`` writes the file that is shipped.

With ``S`` state slots, ``buffer`` being the state, the guided output and the noise, and ``a, b, c`` the three parts of
the row's matrix::

    ratio  = snr ‖c · buffer‖ / ‖b · buffer‖, or 0 where b · buffer vanishes
    state' = a · buffer + ratio² b · buffer + ratio c · buffer
    slot 0 where the mask is at most level = image · clean + noise · start + itself · slot 0
    sample = [slot 0 · scale, extra]
    next_row = row + 1, so that the device counts by itself
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from intarsia.backends.onnx.open_sessions import STEP
from intarsia.schedulers.packing import Field

__all__ = ["step_graph"]

_OPSET, _IR = 18, 8
_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64
# In the order of `Field`; the last one is not for this graph.
_FIELDS = int(Field.INPUT_SCALE)
_LATENTS = ["C", "h", "w"]
_INPUTS: dict[str, tuple[int, list[str | int]]] = {
    "row": (_INT, [1]),
    "matrices": (_FLOAT, ["R", "3S", "S+2"]),
    "scalars": (_FLOAT, ["R", _FIELDS]),
    "state": (_FLOAT, ["S", *_LATENTS]),
    "output": (_FLOAT, ["H", *_LATENTS]),
    "noise": (_FLOAT, [*_LATENTS]),
    "clean": (_FLOAT, [*_LATENTS]),
    "start": (_FLOAT, [*_LATENTS]),
    "mask": (_FLOAT, [1, "h", "w"]),
    "extra": (_FLOAT, ["E", "h", "w"]),
}
_CONSTANTS = {
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "last": np.array([-1], np.int64),
    "end": np.array([np.iinfo(np.int64).max], np.int64),
    "nothing": np.array(0, np.float32),
    "least": np.array(1e-30, np.float32),
}
# operator, inputs, outputs, attributes
_NODES: list[tuple[str, str, str, dict[str, int]]] = [
    ("Gather", "scalars row", "numbers", {"axis": 0}),
    ("Split", "numbers", "guidance image known itself snr scale level", {"axis": 1, "num_outputs": _FIELDS}),
    ("Gather", "output zero", "unconditional", {"axis": 0}),
    ("Gather", "output last", "conditional", {"axis": 0}),
    ("Sub", "conditional unconditional", "difference", {}),
    ("Mul", "guidance difference", "push", {}),
    ("Add", "unconditional push", "guided", {}),
    ("Unsqueeze", "noise zero", "fresh", {}),
    ("Concat", "state guided fresh", "buffer", {"axis": 0}),
    ("Flatten", "buffer", "flat", {"axis": 1}),
    ("Gather", "matrices row", "rows", {"axis": 0}),
    ("Squeeze", "rows zero", "matrix", {}),
    ("MatMul", "matrix flat", "product", {}),
    ("Split", "product", "a b c", {"axis": 0, "num_outputs": 3}),
    ("ReduceL2", "b", "drift", {"keepdims": 1}),
    ("ReduceL2", "c", "spread", {"keepdims": 1}),
    ("Max", "drift least", "divisor", {}),
    ("Div", "spread divisor", "norms", {}),
    ("Mul", "snr norms", "unchecked", {}),
    ("Greater", "drift nothing", "drifts", {}),
    ("Where", "drifts unchecked nothing", "ratio", {}),
    ("Mul", "ratio b", "once", {}),
    ("Add", "once c", "both", {}),
    ("Mul", "ratio both", "moved", {}),
    ("Add", "a moved", "sum", {}),
    ("Shape", "state", "shape", {}),
    ("Reshape", "sum shape", "stepped", {}),
    ("Gather", "stepped zero", "current", {"axis": 0}),
    ("Mul", "image clean", "shown", {}),
    ("Mul", "known start", "noised", {}),
    ("Mul", "itself current", "own", {}),
    ("Add", "shown noised", "kept_level", {}),
    ("Add", "kept_level own", "outside", {}),
    ("Greater", "mask level", "inside", {}),
    ("Where", "inside current outside", "kept", {}),
    ("Slice", "stepped one end zero", "others", {}),
    ("Concat", "kept others", "new_state", {"axis": 0}),
    ("Mul", "kept scale", "scaled", {}),
    ("Unsqueeze", "extra zero", "more", {}),
    ("Concat", "scaled more", "sample", {"axis": 1}),
    ("Add", "row one", "next_row", {}),
]


def step_graph() -> bytes:
    """The serialized graph."""
    nodes = []
    for kind, taken, made, attributes in _NODES:
        nodes.append(helper.make_node(kind, taken.split(), made.split(), **attributes))

    inputs = []
    for name, (dtype, shape) in _INPUTS.items():
        inputs.append(helper.make_tensor_value_info(name, dtype, shape))
    outputs = [
        helper.make_tensor_value_info("new_state", _FLOAT, ["S", *_LATENTS]),
        helper.make_tensor_value_info("sample", _FLOAT, [1, "C+E", "h", "w"]),
        helper.make_tensor_value_info("next_row", _INT, [1]),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items()]

    graph = helper.make_graph(nodes, "step", inputs, outputs, constants)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    STEP.write_bytes(step_graph())
