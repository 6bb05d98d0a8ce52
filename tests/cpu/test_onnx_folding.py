"""Weights folded outside of ONNX Runtime: the same results, in a bounded multiple of the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for package in ("onnxruntime", "onnx"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'intarsia[cpu,export]'")

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from intarsia.backends.onnx.device import Device
from intarsia.backends.onnx.folding import fold
from intarsia.errors import WeightsError

FILE = "weights.bin"
TYPES = {TensorProto.FLOAT16: np.float16, TensorProto.FLOAT: np.float32, TensorProto.BFLOAT16: np.uint16}


class Writer:
    """A file of weights, and the initializers that refer to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.initializers: list[TensorProto] = []
        self._random = np.random.default_rng(0)
        self.path.write_bytes(b"header")  # so that no offset is a multiple of anything

    def add(self, name: str, shape: tuple[int, ...], dtype: int = TensorProto.FLOAT16) -> str:
        values = (self._random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        stored = values.view(np.uint32) >> 16 if dtype == TensorProto.BFLOAT16 else values
        content = stored.astype(TYPES[dtype]).tobytes()

        tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
        place = {"location": FILE, "offset": self.path.stat().st_size, "length": len(content)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        with self.path.open("ab") as file:
            file.write(content)
        self.initializers.append(tensor)
        return name


def model(nodes: list[Any], initializers: list[TensorProto], channels: int) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "test", [x], [y], initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = made.SerializeToString()
    return content


def every_kind(folder: Path) -> bytes:
    """A convolution, and matrices that are transposed, reshaped, put together and split, of all number formats."""
    weights = Writer(folder)
    floats = {"to": TensorProto.FLOAT}
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [128, 128])
    make = helper.make_node
    nodes = [
        make("Cast", [weights.add("c", (128, 128, 3, 3))], ["c32"], **floats),
        make("Conv", ["x", "c32"], ["conv"], pads=[1, 1, 1, 1]),
        make("Transpose", ["conv"], ["last"], perm=[0, 2, 3, 1]),
        *(make("Cast", [weights.add(n, (128, 128), TensorProto.BFLOAT16)], [f"{n}32"], **floats) for n in "qk"),
        make("Concat", ["q32", "k32"], ["qk"], axis=0),
        make("Split", ["qk"], ["first", "second"], axis=0, num_outputs=2),
        make("Transpose", ["first"], ["first_t"], perm=[1, 0]),
        make("Transpose", ["second"], ["second_t"], perm=[1, 0]),
        make("MatMul", ["last", "first_t"], ["a"]),
        make("MatMul", ["a", "second_t"], ["b"]),
        make("Cast", [weights.add("p", (128, 128, 1, 1))], ["p32"], **floats),
        make("Reshape", ["p32", "shape"], ["flat"]),
        make("Transpose", ["flat"], ["flat_t"], perm=[1, 0]),
        make("MatMul", ["b", "flat_t"], ["d"]),
        make("Transpose", [weights.add("f", (128, 128), TensorProto.FLOAT)], ["f_t"], perm=[1, 0]),
        make("MatMul", ["d", "f_t"], ["e"]),
        make("Cast", [weights.add("bias", (128,))], ["bias32"], **floats),
        make("Add", ["e", "bias32"], ["y"]),
    ]
    return model(nodes, [*weights.initializers, shape], 128)


def run(session: ort.InferenceSession, channels: int) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((1, channels, 8, 8), np.float32)
    (y,) = session.run(None, {"x": x})
    return y


def test_every_kind_of_weight_gives_what_onnx_runtime_makes_of_it(tmp_path):
    content = every_kind(tmp_path)
    folded = fold(content, tmp_path)
    assert set(folded.weights) == {"c32", "first_t", "second_t", "flat_t", "f_t"}
    left = [node.op_type for node in onnx.load_from_string(folded.content).graph.node]
    assert sorted(left) == ["Add", "Cast", "Conv", "MatMul", "MatMul", "MatMul", "MatMul", "Transpose"]

    expected = run(Device("cpu").open(content, tmp_path), 128)
    actual = run(Device("cpu", compact=True).open(content, tmp_path), 128)
    assert np.abs(expected).max() > 0.1
    # sums in another order
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def test_a_weight_that_is_also_used_otherwise_stays_for_it(tmp_path):
    weights = Writer(tmp_path)
    nodes = [
        helper.make_node("Cast", [weights.add("c", (128, 128, 1, 1))], ["c32"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "c32"], ["conv"]),
        helper.make_node("ReduceSum", ["c32"], ["sum"], keepdims=0),
        helper.make_node("Add", ["conv", "sum"], ["y"]),
    ]
    content = model(nodes, weights.initializers, 128)
    expected = run(Device("cpu").open(content, tmp_path), 128)
    actual = run(Device("cpu", compact=True).open(content, tmp_path), 128)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("fault", ["short", "absent", "outside", "cut"])
def test_weights_that_are_not_there_are_said(tmp_path, fault):
    folder = tmp_path / "model"
    folder.mkdir()
    content = every_kind(folder)
    if fault == "short":
        (folder / FILE).write_bytes((folder / FILE).read_bytes()[:1000])
    if fault == "absent":
        (folder / FILE).unlink()
    if fault == "outside":
        (folder / FILE).rename(tmp_path / FILE)
        (folder / FILE).symlink_to(tmp_path / FILE)
    if fault == "cut":
        content = content[:-3]

    sentences = {
        "short": "does not hold all of c",
        "absent": "cannot be read (No such file or directory)",
        "outside": "weights outside of",
        "cut": "a graph whose weights cannot be folded",
    }
    with pytest.raises(WeightsError) as raised:
        fold(content, folder)
    assert sentences[fault] in str(raised.value)


SCRIPT = """
import sys
from pathlib import Path

from intarsia.backends.onnx.device import Device


def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


folder = Path(sys.argv[1])
content = (folder / "graph.onnx").read_bytes()
before = kilobytes("VmRSS")
session = Device("cpu", compact=sys.argv[2] == "compact").open(content, folder)
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_opening_takes_hardly_more_than_the_weights_in_float32(tmp_path):
    weights = Writer(tmp_path)
    nodes = []
    value = "x"
    for i in range(10):
        name = weights.add(f"w{i}", (512, 512, 3, 3))
        nodes.append(helper.make_node("Cast", [name], [f"w{i}_32"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Conv", [value, f"w{i}_32"], [f"y{i}"], pads=[1, 1, 1, 1]))
        value = f"y{i}"
    nodes.append(helper.make_node("Identity", [value], ["y"]))
    (tmp_path / "graph.onnx").write_bytes(model(nodes, weights.initializers, 512))

    size = weights.path.stat().st_size
    assert size > 45e6
    peaks = {}
    for layout in ("compact", "blocked"):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), layout]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[layout] = int(done.stdout) / size

    # 2.0 are the weights in float32
    assert peaks["compact"] <= 2.4
    assert peaks["blocked"] > 3, "else there would be nothing to gain"
