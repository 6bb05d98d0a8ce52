"""A loop's CUDA stream against a driver that works on the host's memory."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")

import intarsia
from intarsia.backends.onnx import stream as streams
from intarsia.backends.onnx.device import Device
from intarsia.backends.onnx.stream import AHEAD, CudaStream
from tests.driver import HostDriver


@pytest.fixture
def driver() -> HostDriver:
    return HostDriver()


def place(*shape: int) -> Any:
    return Device("cpu").put(np.zeros(shape, np.float32))


def test_arrays_arrive_and_may_be_changed_at_once(driver):
    stream, places = CudaStream(0, driver), [place(3, 500) for _ in range(4)]
    for turn in range(3 * AHEAD):
        stream.wait()
        for number, each in enumerate(places):
            array = np.full((3, 500), 10.0 * turn + number, np.float32)
            stream.upload(each, array)
            array[:] = -1
            assert (each.numpy() == 10 * turn + number).all()
        stream.mark()
    stream.finish()
    assert not driver.changed, "memory was used again before the copy that reads it was waited for"
    assert len(driver.names("cuMemHostAlloc")) == AHEAD * len(places), "memory of finished evaluations is used again"


def test_arrays_that_are_not_in_one_piece(driver):
    stream, target = CudaStream(0, driver), place(5, 3)
    array = np.arange(15, dtype=np.float32).reshape(3, 5).T
    stream.wait()
    stream.upload(target, array)
    np.testing.assert_array_equal(target.numpy(), array)


def test_a_copy_on_the_device(driver):
    stream, one, other = CudaStream(0, driver), place(4, 5), place(4, 5)
    one.update_inplace(np.arange(20, dtype=np.float32).reshape(4, 5))
    stream.copy(other, one)
    np.testing.assert_array_equal(other.numpy(), one.numpy())


def test_the_host_is_a_few_evaluations_ahead_at_most(driver):
    stream, waited = CudaStream(0, driver), []
    driver._cuEventSynchronize = lambda event: waited.append(event.value)
    marked = []
    driver._cuEventRecord = lambda event, _: marked.append(event.value)
    for turn in range(7):
        stream.wait()
        # before evaluation n, the event behind evaluation n - AHEAD; before that there is none
        assert waited[-1] == marked[turn - AHEAD] if turn >= AHEAD else waited[-1] not in marked
        stream.mark()
    assert not driver.names("cuStreamSynchronize", "cuCtxSynchronize")


def test_every_call_is_made_in_the_devices_context(driver):
    stream = CudaStream(0, driver)
    stream.wait()
    stream.upload(place(2), np.ones(2, np.float32))
    stream.mark()
    free = {"cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"}
    for before, name in zip(driver.calls, driver.calls[1:], strict=False):
        assert name in free or before == "cuCtxSetCurrent", f"{name} without a context"


def test_everything_is_given_back(driver):
    stream = CudaStream(0, driver)
    stream.wait()
    stream.upload(place(2000), np.ones(2000, np.float32))
    assert driver.alive["memory"]
    assert driver.alive["context"] == 1
    del stream
    gc.collect()
    assert driver.alive == {"stream": set(), "event": set(), "memory": {}, "context": 0}


def test_what_the_driver_says_is_in_the_error(driver):
    stream = CudaStream(0, driver)
    driver.failing["cuStreamSynchronize"] = 700
    with pytest.raises(intarsia.BackendError, match="cuStreamSynchronize failed: CUDA_ERROR_UNKNOWN"):
        stream.finish()
    driver.failing["cuMemHostAlloc"] = 2
    with pytest.raises(intarsia.OutOfMemory, match="CUDA_ERROR_OUT_OF_MEMORY"):
        stream.upload(place(2), np.ones(2, np.float32))


def test_a_stream_without_a_driver_is_refused(monkeypatch):
    monkeypatch.setattr(streams, "load_driver", lambda: None)
    with pytest.raises(intarsia.BackendError, match="cuda:1 needs NVIDIA's driver"):
        CudaStream(1)
