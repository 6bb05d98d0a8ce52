"""Captured steps of the onnx backend, without a GPU: sessions that replay what was bound first.

A CUDA graph runs with the addresses that it was captured with, whatever is bound later. A session that keeps the first
binding of each graph's number does the same on the CPU, and so do the images that come of it.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

import intarsia
from intarsia.backends.onnx import backend, buffer_pool
from intarsia.backends.onnx.buffer_pool import BufferPool
from intarsia.backends.onnx.device import Device
from intarsia.backends.onnx.lane_buffers import LaneInputs, StepSessions
from intarsia.backends.onnx.open_sessions import STEP
from intarsia.backends.onnx.state import matrices, scalars
from intarsia.backends.onnx.stream import CudaStream, HostStream
from intarsia.schedulers import table
from tests.driver import HostDriver

SIZE = 64
# Graphs that a session captures before it is used: their replays are compared with launched runs.
CHECKED = 4


class Replaying:
    """A session that captures: as ONNX Runtime has it, a run is repeated until it is captured; 0 is a number too."""

    def __init__(self, real: onnxruntime.InferenceSession) -> None:
        self._real, self.kept, self.replayed, self.launched = real, {}, Counter(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run_with_iobinding(self, binding: Any, options: onnxruntime.RunOptions = None) -> None:
        try:
            number = int(options.get_run_config_entry("gpu_graph_id"))
        except RuntimeError:
            number = 0
        if number == -1:
            self.launched += 1
            self._real.run_with_iobinding(binding, options)
            return
        if number not in self.kept:
            self.kept[number] = binding
            for _ in range(2):
                self._real.run_with_iobinding(binding, options)
        self.replayed[number] += 1
        self._replay(self.kept[number], options)

    def _replay(self, binding: Any, options: onnxruntime.RunOptions) -> None:
        self._real.run_with_iobinding(binding, options)


class Forgetful(Replaying):
    """Its replays do nothing."""

    def _replay(self, binding: Any, options: onnxruntime.RunOptions) -> None:
        pass


class Mixing(Replaying):
    """Its replays read what the latest graph reads, as a captured Concat did up to ONNX Runtime 1.29."""

    def _replay(self, binding: Any, options: onnxruntime.RunOptions) -> None:
        number = next(number for number, kept in self.kept.items() if kept is binding)
        latest = max(other for other in self.kept if other % 2 == number % 2)
        super()._replay(self.kept[latest], options)


class Failing(Replaying):
    """Captures its first runs, and then no more."""

    room = 1

    def run_with_iobinding(self, binding: Any, options: onnxruntime.RunOptions = None) -> None:
        number = int(options.get_run_config_entry("gpu_graph_id"))
        if number != -1 and number not in self.kept and len(self.kept) >= self.room:
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        super().run_with_iobinding(binding, options)


class FailingLater(Failing):
    """The check and one lane go well."""

    room = 6


@dataclass(frozen=True)
class Capturing(Device):
    """A CPU that says it captures."""

    made: list[Replaying] = field(default_factory=list, compare=False)
    kind_of_session: type = Replaying
    driver: HostDriver | None = None

    @property
    def captures(self) -> bool:
        return True

    def why_not_captured(self, dtype: str) -> str:
        return ""

    def stream(self) -> HostStream | CudaStream:
        return HostStream() if self.driver is None else CudaStream(0, self.driver)

    def _providers(self, stream: Any, captured: bool) -> Any:
        return super()._providers(None, False)

    def open(self, graph: Any, weights: Path | None = None, *, captured: bool = False, **more: Any) -> Any:
        real = super().open(graph, weights, **more)
        if not captured:
            return real
        self.made.append(self.kind_of_session(real))
        return self.made[-1]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., intarsia.Engine]]:
    """Engines on a given device."""
    opened = []

    def open_on(device: str, capture: str = "auto", slots: int | None = None) -> intarsia.Engine:
        monkeypatch.setattr(backend, "pick_device", lambda name: device)
        engine = intarsia.Engine("onnx", "cpu", capture=capture, slots=slots)
        opened.append(engine)
        return engine

    yield open_on
    for engine in opened:
        engine.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[intarsia.Engine]:
    with intarsia.Engine("onnx", "cpu") as engine:
        yield engine


def ask(**fields: Any) -> intarsia.InpaintRequest:
    ramp = np.linspace(40, 200, SIZE)[:, None, None] * np.array([0.9, 0.6, 0.8]) * np.ones((1, SIZE, 1))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[15:50, 12:47] = 255
    given = {"init_image": ramp.astype(np.uint8), "mask_image": mask, "width": SIZE, "height": SIZE}
    defaults = {"prompt": "a red circle", "seed": 4, "steps": 3, "strength": 1.0, "guidance_scale": 4.0}
    return intarsia.InpaintRequest(**{**given, **defaults, **fields})


MIXED = [
    {},
    {"scheduler": "EulerDiscreteScheduler", "prompt": "a blue square"},
    {"scheduler": "EulerAncestralDiscreteScheduler", "steps": 5, "seed": 9},
    {"scheduler": "UniPCMultistepScheduler", "steps": 6, "samples": 2},
    {"guidance_scale": 1.0, "prompt": "a green star"},
    {"width": 96, "height": 64},
    {"scheduler": "EulerDiscreteScheduler", "steps": 15, "strength": 0.9},
]  # other numbers of slots, branches, latents and rows; some shapes come up once, some often


def drawn(result: intarsia.Result) -> list[np.ndarray]:
    return [np.asarray(image) for image in result.generated]


@pytest.fixture(scope="module")
def expected(plain: intarsia.Engine) -> list[list[np.ndarray]]:
    return [drawn(plain.run(ask(**fields))) for fields in MIXED]


def test_replayed_steps_give_the_launched_ones_bits(on, expected):
    device = Capturing("cpu")
    engine = on(device)
    for turn in range(3):
        tickets = [engine.submit(ask(**fields)) for fields in (MIXED if turn != 1 else MIXED[::-1])]
        found = [drawn(ticket.result()) for ticket in tickets]
        for one, other in zip(found, expected if turn != 1 else expected[::-1], strict=True):
            np.testing.assert_array_equal(one, other)
    network, step = sorted(device.made, key=lambda each: "embeddings" not in {i.name for i in each.get_inputs()})
    for each in (network, step):
        assert len(each.kept) > CHECKED
        assert 0 not in each.kept
        replays = each.replayed.total()
        assert replays > each.launched > 0, "shapes are launched when they first come up, and replayed later"
    assert engine.run(ask()).runtime.capture == "on"


def test_a_shape_is_captured_when_it_comes_up_again(on):
    device = Capturing("cpu")
    engine = on(device)
    engine.run(ask())
    network = device.made[-1]
    assert len(network.kept) == CHECKED
    engine.run(ask(seed=5))
    assert len(network.kept) == CHECKED + 2  # state and row have two places each
    engine.run(ask(seed=6, steps=7, prompt="a triangle"))
    assert len(network.kept) == CHECKED + 2, "another lane of the same shapes, with another table, needs nothing new"
    engine.run(ask(guidance_scale=1.0))
    assert len(network.kept) == CHECKED + 2, "one half instead of two is another shape, and new"


@pytest.mark.slow
def test_lanes_that_leave_early_leave_their_buffers(on, expected):
    device = Capturing("cpu")
    engine = on(device, slots=2)
    for _ in range(4):
        for event in engine.stream(ask(steps=30)):
            if isinstance(event, intarsia.Progress) and event.step == 2:
                break
        gc.collect()
        np.testing.assert_array_equal(drawn(engine.run(ask())), expected[0])
    assert len(device.made[-1].kept) <= CHECKED + 4, "two lanes at a time"


@pytest.mark.slow
def test_no_more_is_captured_than_there_is_room_for(on, monkeypatch, expected):
    monkeypatch.setattr(BufferPool.__init__, "__defaults__", (2,))
    device = Capturing("cpu")
    engine = on(device, slots=4)
    for _ in range(2):
        for fields, image in zip(MIXED, expected, strict=True):
            for _ in range(2):
                np.testing.assert_array_equal(drawn(engine.run(ask(**fields))), image)
    assert len(device.made[-1].kept) == CHECKED + 4


@pytest.mark.slow
def test_merging_lanes_are_launched(on, plain):
    device = Capturing("cpu")
    engine = on(device)
    wanted = ask(token_merging=0.5, width=256, height=256, steps=2)
    for _ in range(2):
        np.testing.assert_array_equal(drawn(engine.run(wanted)), drawn(plain.run(wanted)))
    assert [len(each.kept) for each in device.made] == [CHECKED] * 2


@pytest.mark.slow
def test_graphs_that_do_something_else_are_not_used(on, expected):
    engine = on(Capturing("cpu", kind_of_session=Forgetful))
    result = engine.run(ask())
    np.testing.assert_array_equal(drawn(result), expected[0])
    assert result.runtime.capture == "off"
    said = "steps are launched one operation at a time, not captured: captured steps do not give"
    assert [warning for warning in result.warnings if warning.startswith(said)]
    with pytest.raises(intarsia.BackendError, match="captured steps do not give what launched ones do: they differ by"):
        on(Capturing("cpu", kind_of_session=Forgetful), capture="on").run(ask())
    device = Capturing("cpu", kind_of_session=Forgetful)
    assert not on(device, capture="off").run(ask()).warnings
    assert not device.made


def test_graphs_that_read_another_lanes_buffers_are_not_used(on, expected):
    result = on(Capturing("cpu", kind_of_session=Mixing)).run(ask())
    np.testing.assert_array_equal(drawn(result), expected[0])
    assert any("captured steps do not give what launched ones do" in warning for warning in result.warnings)


@pytest.mark.slow
def test_a_device_that_fails_as_it_captures(on, expected):
    """CUDA's own errors come without a class of ONNX Runtime's."""
    result = on(Capturing("cpu", kind_of_session=Failing)).run(ask())
    np.testing.assert_array_equal(drawn(result), expected[0])
    assert any("failed to capture a step on cpu: CUDA failure 900" in warning for warning in result.warnings)


@pytest.mark.slow
def test_what_cannot_be_captured_later_is_launched(on, expected):
    device = Capturing("cpu", kind_of_session=FailingLater)
    engine = on(device)
    for turn in range(3):
        results = [ticket.result() for ticket in [engine.submit(ask(**fields)) for fields in MIXED]]
        for one, other in zip(results, expected, strict=True):
            np.testing.assert_array_equal(drawn(one), other)
        noted = ["no further steps are captured" in " ".join(result.warnings) for result in results]
        assert any(noted) == (turn > 0)
    assert len(device.made[-1].kept) == CHECKED + 2
    assert results[0].runtime.capture == "on", "what was captured before is still replayed"


@pytest.mark.slow
def test_samples_of_a_shape_that_comes_up_once_are_launched(on):
    device = Capturing("cpu")
    on(device).run(ask(samples=4, steps=2))
    assert len(device.made[-1].kept) == CHECKED


def test_buffers_of_a_lane_that_failed_are_not_used_again(on, expected):
    device = Capturing("cpu")
    engine = on(device, slots=1)
    for _ in range(2):
        engine.run(ask())
    network, step = device.made[-1], device.made[-2]
    assert len(step.kept) == CHECKED + 2
    step.replayed.clear()

    def fail(binding: Any, options: Any) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    network._replay = fail
    with pytest.raises(
        intarsia.BackendError, match="onnxruntime failed to evaluate the network on cpu: CUDA failure 700"
    ):
        engine.run(ask())
    del network._replay
    gc.collect()
    np.testing.assert_array_equal(drawn(engine.run(ask())), expected[0])
    assert len(step.kept) == CHECKED + 4, "the failed lane's buffers are not used again"


@pytest.mark.slow
def test_lanes_that_take_too_much_memory_are_launched(on, monkeypatch):
    monkeypatch.setattr(buffer_pool, "_CAPACITY_BYTES", 1 << 16)
    device = Capturing("cpu")
    engine = on(device)
    for _ in range(3):
        engine.run(ask())
    assert len(device.made[-1].kept) == CHECKED


@pytest.mark.slow
def test_the_stream_goes_after_the_sessions_that_work_on_it(on):
    driver, gone = HostDriver(), []
    device = Capturing("cpu", driver=driver)
    engine = on(device)
    for _ in range(3):
        engine.run(ask(steps=2))
    driver._cuStreamDestroy = lambda stream: gone.append("stream")
    for made in device.made:
        weakref.finalize(made._real, gone.append, "session")
    del made
    device.made.clear()
    engine.close()
    gc.collect()
    assert gone == ["session", "session", "stream"]


@pytest.mark.parametrize(
    ("version", "dtype", "why"),
    [
        ("1.31.1", "float16", ""),
        ("2.0.0", "float16", ""),
        ("1.29.1", "float16", "onnxruntime 1.29.1 captures Concat with addresses that change; 1.31 does not"),
        ("1.31.1", "float32", "float32 graphs have branches"),
    ],
)
def test_what_keeps_steps_from_being_captured(monkeypatch, version, dtype, why):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    found = Device("cuda").why_not_captured(dtype)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_a_graph_that_cannot_be_captured_is_launched(on, monkeypatch, expected):
    """As ONNX Runtime says it where operations of a graph are not on the GPU."""
    sentence = "This session cannot use the graph capture feature as requested by the user"

    class Refusing(Capturing):
        def open(self, graph: Any, weights: Path | None = None, *, captured: bool = False, **more: Any) -> Any:
            if captured and weights is not None:
                raise Fail(sentence)
            return super().open(graph, weights, captured=captured, **more)

    result = on(Refusing("cpu")).run(ask())
    np.testing.assert_array_equal(drawn(result), expected[0])
    assert [warning for warning in result.warnings if sentence in warning]
    with pytest.raises(intarsia.BackendError, match=f"onnxruntime failed to load .*unet.onnx on cpu: {sentence}"):
        on(Refusing("cpu"), capture="on").run(ask())


@pytest.mark.slow
def test_through_a_cuda_stream(on, expected):
    driver = HostDriver()
    engine = on(Capturing("cpu", driver=driver))
    for _ in range(2):
        found = [drawn(ticket.result()) for ticket in [engine.submit(ask(**fields)) for fields in MIXED]]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not driver.changed
    uploads = len(driver.names("cuMemcpyHtoDAsync_v2"))
    before = len(driver.names("cuStreamSynchronize"))
    engine.run(ask(steps=40, strength=1.0, scheduler="DPMSolverMultistepScheduler"))
    assert len(driver.names("cuMemcpyHtoDAsync_v2")) == uploads, "the device counts its rows by itself"
    assert len(driver.names("cuStreamSynchronize")) == before + 1, "nothing is waited for before the image is read"


def test_what_a_lane_leaves_behind_does_not_reach_the_next():
    """Zero times a number that is not finite is not zero, and tables have many zeros."""
    device = Device("cpu")
    step = Replaying(device.open(STEP.read_bytes()))
    shape = (4, 6, 9)

    class Network:
        """Gives the first number of its cross-attention keys and values."""

        def io_binding(self) -> Bound:
            return Bound()

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            value = binding.inputs["context"].numpy()[0, 0, 0]
            binding.outputs["output"].update_inplace(np.full((1, *shape), value, np.float32))

    class Bound:
        def __init__(self) -> None:
            self.inputs, self.outputs = {}, {}
            self.bind_ortvalue_input, self.bind_ortvalue_output = self.inputs.__setitem__, self.outputs.__setitem__

    sessions = StepSessions(network=Network(), step=step, device=device, stream=HostStream(), captured=True)
    pool = BufferPool(sessions)
    made = table("UniPCMultistepScheduler", 4)

    def lane(value: float) -> np.ndarray:
        field = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        first = np.zeros((made.state_slots, *shape), np.float32)
        first[0] = field
        arrays = {
            "state": first, "noise": field.copy(), "matrices": matrices(made), "clean": field, "start": field,
            "scalars": scalars(made, 1.0, keeps_known=False), "mask": np.ones((1, *shape[1:]), np.float32),
            "extra": np.zeros((0, *shape[1:]), np.float32),
        }  # fmt: skip
        taken = pool.take(LaneInputs(device.put(np.full((1, 1, 1), value, np.float32)), {}, arrays))
        for row in range(len(made)):
            taken.advance(row, None)
        pool.leave(taken)
        return taken.latents.copy()

    first = lane(0.5)
    assert not np.isfinite(lane(np.nan)).any()
    assert step.kept
    np.testing.assert_array_equal(lane(0.5), first)


def test_this_onnxruntime_has_what_is_used():
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "3")
    assert options.get_run_config_entry("gpu_graph_id") == "3"
