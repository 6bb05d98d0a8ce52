"""Weights folded outside of ONNX Runtime: the same results, in a bounded multiple of the file."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import weakref
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

for package in ("onnxruntime", "onnx"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'intarsia[cpu,export]'")

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from intarsia.backends.onnx import blocked_layout
from intarsia.backends.onnx import device as devices
from intarsia.backends.onnx.blocked_layout import block_channels, blocked_weight
from intarsia.backends.onnx.device import Device
from intarsia.backends.onnx.folding import FoldedGraph, fold
from intarsia.errors import WeightsError

FILE = "weights.bin"
TYPES = {TensorProto.FLOAT16: np.float16, TensorProto.FLOAT: np.float32, TensorProto.BFLOAT16: np.uint16}
EIGHT_BITS = (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)


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
        if dtype in EIGHT_BITS:  # no code of them is an infinity or not a number
            signs = self._random.integers(0, 2, shape, np.uint8) << 7
            content = (signs | self._random.integers(0, 0x78, shape, np.uint8)).tobytes()
        else:
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
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
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


def operations(folded: FoldedGraph) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(folded.content).graph.node]


OURS = Device("cpu", folds=True, packs=False)


@pytest.mark.parametrize("block", [0, 8, 16])
def test_every_kind_of_weight_gives_what_onnx_runtime_makes_of_it(tmp_path, block, monkeypatch):
    """Also where the processor has no kernels for blocks."""
    content = every_kind(tmp_path)
    folded = fold(content, tmp_path, block=block)
    assert set(folded.weights) == {"c32", "first_t", "second_t", "flat_t", "f_t"}
    left = operations(folded)
    reorders = ["ReorderInput", "ReorderOutput"] if block else []
    assert sorted(left) == ["Add", "Cast", "Conv", "MatMul", "MatMul", "MatMul", "MatMul", *reorders, "Transpose"]

    if block not in (0, block_channels()):
        return  # there are no kernels for it here
    monkeypatch.setattr(devices, "block_channels", lambda: block)
    expected = run(Device("cpu").open(content, tmp_path), 128)
    actual = run(OURS.open(content, tmp_path), 128)
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
    actual = run(OURS.open(content, tmp_path), 128)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_numbers_of_eight_bits(tmp_path, dtype):
    weights = Writer(tmp_path)
    nodes = [
        helper.make_node("Cast", [weights.add("c", (128, 128, 3, 3), dtype)], ["c32"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "c32"], ["y"], pads=[1, 1, 1, 1]),
    ]
    content = model(nodes, weights.initializers, 128)
    assert set(fold(content, tmp_path).weights) == {"c32"}
    expected = run(Device("cpu").open(content, tmp_path), 128)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(run(OURS.open(content, tmp_path), 128), expected, atol=1e-5 * np.abs(expected).max())


def test_parts_of_unequal_size(tmp_path):
    weights = Writer(tmp_path)
    make = helper.make_node
    nodes = [
        make("Cast", [weights.add("w", (128, 400))], ["w32"], to=TensorProto.FLOAT),
        make("Split", ["w32"], ["first", "second", "third"], axis=1, num_outputs=3),
        make("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
        *(make("MatMul", ["last", name], [f"{name}_y"]) for name in ("first", "second", "third")),
        make("Concat", ["first_y", "second_y", "third_y"], ["y"], axis=3),
    ]
    content = model(nodes, weights.initializers, 128)
    assert [weight.shape[1] for weight in fold(content, tmp_path).weights.values()] == [134, 134, 132]
    expected = run(Device("cpu").open(content, tmp_path), 128)
    np.testing.assert_allclose(run(OURS.open(content, tmp_path), 128), expected, atol=1e-5 * np.abs(expected).max())


def test_a_weight_that_is_an_output_of_the_graph_is_given_as_it_is(tmp_path):
    """One that a convolution takes, whose values would be in another order, and one that nothing else takes."""
    weights = Writer(tmp_path)
    nodes = [
        helper.make_node("Cast", [weights.add(name, (128, 128, 1, 1))], [f"{name}32"], to=TensorProto.FLOAT)
        for name in "ab"
    ]
    nodes.append(helper.make_node("Conv", ["x", "a32"], ["y"]))
    graph = onnx.load_from_string(model(nodes, weights.initializers, 128))
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("a32", "b32"))

    content = graph.SerializeToString()
    stored = np.frombuffer(weights.path.read_bytes()[len(b"header") :], np.float16).reshape(2, 128, 128, 1, 1)
    x = np.zeros((1, 128, 8, 8), np.float32)
    _, *outputs = OURS.open(content, tmp_path).run(None, {"x": x})
    np.testing.assert_array_equal(outputs, stored.astype(np.float32))


@pytest.mark.parametrize("has_blocks", [False, True])
@pytest.mark.parametrize("follows", ["Mul", "BatchNormalization"])
def test_factors_behind_a_convolution(tmp_path, follows, has_blocks, monkeypatch):
    """ONNX Runtime would multiply the weight by them, which it cannot read."""
    if not has_blocks:
        monkeypatch.setattr(devices, "block_channels", lambda: 0)
    weights = Writer(tmp_path)
    factors = np.linspace(0.5, 2, 128, dtype=np.float32)
    inputs = ["conv", "factors"] if follows == "Mul" else ["conv", *["factors"] * 4]
    shaped = factors.reshape(1, 128, 1, 1) if follows == "Mul" else factors
    nodes = [
        helper.make_node("Cast", [weights.add("c", (128, 128, 3, 3))], ["c32"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "c32"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node(follows, inputs, ["y"]),
    ]
    content = model(nodes, [*weights.initializers, numpy_helper.from_array(shaped, "factors")], 128)
    expected = run(Device("cpu").open(content, tmp_path), 128)
    actual = run(OURS.open(content, tmp_path), 128)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


class Convolution(NamedTuple):
    """``[O, I, h, w]`` of a weight, attributes, and whether it is blocked here."""

    shape: tuple[int, int, int, int]
    attributes: dict[str, Any]
    is_blocked: bool


# In blocks of 8 or 16 channels, whichever the processor has.
CONVOLUTIONS = {
    "pointwise": Convolution((128, 128, 1, 1), {}, True),
    "strided": Convolution((128, 128, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, True),
    "uneven padding": Convolution((128, 128, 2, 2), {"pads": [0, 1, 1, 0]}, True),
    "dilated": Convolution((128, 128, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, True),
    "few inputs": Convolution((512, 4, 3, 3), {"pads": [1, 1, 1, 1]}, True),
    "outputs of no whole block": Convolution((20, 128, 3, 3), {"pads": [1, 1, 1, 1]}, False),
    "inputs of no whole block": Convolution((128, 36, 3, 3), {"pads": [1, 1, 1, 1]}, False),
    "groups": Convolution((128, 32, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}, False),
}


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_convolutions_give_what_onnx_runtime_makes_of_them(tmp_path, kind, has_bias, packs):
    shape, attributes, is_blocked = CONVOLUTIONS[kind]
    channels = shape[1] * attributes.get("group", 1)
    weights = Writer(tmp_path)
    floats = {"to": TensorProto.FLOAT}
    nodes = [helper.make_node("Cast", [weights.add("c", shape)], ["c32"], **floats)]
    inputs = ["x", "c32"]
    if has_bias:
        nodes.append(helper.make_node("Cast", [weights.add("bias", shape[:1])], ["bias32"], **floats))
        inputs.append("bias32")
    nodes.append(helper.make_node("Conv", inputs, ["y"], **attributes))
    content = model(nodes, weights.initializers, channels)

    block = block_channels()
    if block:
        there = operations(fold(content, tmp_path, block=block))
        assert ("ReorderOutput" in there) is is_blocked
        assert ("ReorderInput" in there) is (is_blocked and shape[1] >= block)
    expected = run(Device("cpu").open(content, tmp_path), channels)
    actual = run(replace(OURS, packs=packs).open(content, tmp_path), channels)
    if is_blocked:  # by the same kernels
        np.testing.assert_array_equal(actual, expected)
    else:
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_convolutions_that_follow_each_other_or_share_a_map_reorder_it_once(tmp_path):
    weights = Writer(tmp_path)
    nodes = [
        helper.make_node("Cast", [weights.add(name, (128, 128, 1, 1))], [f"{name}32"], to=TensorProto.FLOAT)
        for name in "abc"
    ]
    nodes += [
        helper.make_node("Conv", ["x", "a32"], ["a_x"]),
        helper.make_node("Conv", ["x", "b32"], ["b_x"]),
        helper.make_node("Conv", ["a_x", "c32"], ["c_x"]),
        helper.make_node("Add", ["a_x", "b_x"], ["sum"]),
        helper.make_node("Add", ["sum", "c_x"], ["y"]),
    ]
    content = model(nodes, weights.initializers, 128)
    there = operations(fold(content, tmp_path, block=16))
    assert there.count("ReorderInput") == 1
    expected = run(Device("cpu").open(content, tmp_path), 128)
    actual = run(OURS.open(content, tmp_path), 128)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def test_the_layout_is_onnx_runtimes_own(tmp_path):
    """What it stores of a convolution that it has optimized itself: the oracle for the order of weights."""
    block = block_channels()
    if not block:
        pytest.skip("this processor has no kernels for blocks")
    weights = Writer(tmp_path)
    nodes = [helper.make_node("Conv", ["x", weights.add("w", (64, 32, 3, 3), TensorProto.FLOAT)], ["y"])]
    path = tmp_path / "graph.onnx"
    path.write_bytes(model(nodes, weights.initializers, 32))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    stored = np.frombuffer(weights.path.read_bytes()[len(b"header") :], np.float32).reshape(64, 32, 3, 3)

    optimized = onnx.load(tmp_path / "optimized.onnx")
    (ours,) = (each for each in optimized.graph.initializer if each.dims == [64, 32, 3, 3])
    np.testing.assert_array_equal(blocked_weight(stored, block), numpy_helper.to_array(ours))


def test_another_order_of_weights_is_not_taken_for_the_known_one(monkeypatch):
    """As a future ONNX Runtime could have: convolutions are left as they are then."""
    monkeypatch.setattr(blocked_layout, "blocked_weight", lambda weight, block: weight[::-1])
    assert block_channels.__wrapped__() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux'")
def test_the_layout_is_found_where_no_temporary_files_can_be_written(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert block_channels.__wrapped__() == block_channels()


def test_values_that_are_given_go_as_they_are_used(tmp_path):
    """Weights that LoRAs change are there already: each is given back as soon as it has been laid out."""
    content = every_kind(tmp_path)
    shapes = {"c": (128, 128, 3, 3), "q": (128, 128), "bias": (128,)}
    given = {name: partial(np.ones, shape, np.float32) for name, shape in shapes.items()}
    folded = fold(content, tmp_path, given, block=16)
    assert set(given) == {"bias"}
    assert np.all(folded.weights["c32"] == 1)
    assert np.all(folded.weights["first_t"] == 1)


def test_a_session_keeps_no_given_value_that_it_has_folded(tmp_path):
    """Whoever gave them may still have the mapping: it is empty then."""
    made: dict[str, weakref.ref[np.ndarray]] = {}
    alive: list[int] = []

    def make(name: str, shape: tuple[int, ...]) -> np.ndarray:
        alive.append(sum(value() is not None for value in made.values()))
        value = np.ones(shape, np.float16)
        made[name] = weakref.ref(value)
        return value

    shapes = {"c": (128, 128, 3, 3), "p": (128, 128, 1, 1), "bias": (128,)}
    given = {name: cache(partial(make, name, shape)) for name, shape in shapes.items()}
    session = OURS.open(every_kind(tmp_path), tmp_path, given=given)
    assert given == {}
    assert list(made) == ["c", "p", "bias"]
    assert alive == [0, 0, 0]
    assert [made[name]() for name in ("c", "p")] == [None, None]
    assert np.isfinite(run(session, 128)).all()


def test_another_graph_of_the_same_network_takes_what_is_there(tmp_path):
    """Whatever its values are called; what is made otherwise is made for it."""
    content = every_kind(tmp_path)
    first = fold(content, tmp_path, block=16)
    other = onnx.load_from_string(content)
    for node in other.graph.node:
        renamed = {"c32": "kernel", "first": "upper", "first_t": "upper_t"}
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        if node.op_type == "Transpose" and node.output[0] == "f_t":
            node.attribute[0].ints[:] = [0, 1]
    second = fold(other.SerializeToString(), tmp_path, block=16, known=first.by_origin)

    assert second.weights["kernel"] is first.weights["c32"]
    assert second.weights["upper_t"] is first.weights["first_t"]
    assert second.weights["second_t"] is first.weights["second_t"]
    assert second.weights["second_t"] is not second.weights["upper_t"]
    np.testing.assert_array_equal(second.weights["f_t"], first.weights["f_t"].T)
    assert len({id(weight) for weight in (*first.weights.values(), *second.weights.values())}) == 6

    plain = fold(content, tmp_path, known=first.by_origin)
    np.testing.assert_array_equal(blocked_weight(plain.weights["c32"], 16), first.weights["c32"])


def test_values_for_weights_that_are_there_are_not_made(tmp_path):
    """Of a model whose weights LoRAs change all are there twice otherwise, until the second graph is open."""
    made: list[str] = []

    def make() -> np.ndarray:
        made.append("c")
        return np.ones((128, 128, 3, 3), np.float32)

    content = every_kind(tmp_path)
    first = fold(content, tmp_path, {"c": make}, block=16)
    given = {"c": make}
    second = fold(content, tmp_path, given, block=16, known=first.by_origin)
    assert made == ["c"]
    assert given == {}
    assert second.weights["c32"] is first.weights["c32"]


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

from intarsia.backends.onnx import blocked_layout
from intarsia.backends.onnx import device as devices
from intarsia.backends.onnx.blocked_layout import block_channels, blocked_weight
from intarsia.backends.onnx.device import Device


def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


folder = Path(sys.argv[1])
content = (folder / "graph.onnx").read_bytes()
before = kilobytes("VmRSS")
device = Device("cpu", folds=True, packs=False) if sys.argv[2] == "folded" else Device("cpu")
session = device.open(content, folder)
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
    for who in ("folded", "onnxruntime"):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), who]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[who] = int(done.stdout) / size

    # 2.0 are the weights in float32; the rest is one weight on its way, and what a session has of its own
    assert peaks["folded"] <= 2.5
    assert peaks["onnxruntime"] > 3, "else there would be nothing to gain"
