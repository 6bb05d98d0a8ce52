"""A CUDA stream that the network's and the step's session share; on the CPU, where runs are synchronous, none.

Left to itself, ONNX Runtime gives every session a stream of its own and waits for it at the end of each run. Sessions
that take turns on one stream need no waiting: runs are executed in the order of their launches. The stream is created
through the driver's API, because without torch there is no other access to CUDA. It is an ordinary one: the default
stream, by which ONNX Runtime copies to and from the host, waits for it.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from intarsia.backends.driver import load_driver
from intarsia.errors import BackendError, OutOfMemory

__all__ = ["AHEAD", "CudaStream", "HostStream", "Stream"]

AHEAD = 2
"""Evaluations that the host may be ahead of the device, as in the torch backend."""

_OUT_OF_MEMORY = 2
# Flags of events: the waiting thread sleeps, and no times are taken.
_BLOCKING_SYNC, _DISABLE_TIMING = 1, 2


class Stream(Protocol):
    """The order of work of two sessions.

    Attributes:
        handle: of the CUDA stream; 0 where a run is done when its call returns.
    """

    handle: int

    def wait(self) -> None:
        """Before an evaluation is launched: wait until fewer than :data:`AHEAD` evaluations are pending."""
        ...

    def mark(self) -> None:
        """After an evaluation was launched: record its end."""
        ...

    def upload(self, place: ort.OrtValue, array: np.ndarray) -> None:
        """Copy an array to the device, after all earlier launches; between :meth:`wait` and :meth:`mark`.

        The array may be changed at once.
        """
        ...

    def copy(self, place: ort.OrtValue, source: ort.OrtValue) -> None:
        """Copy float32 on the device, likewise."""
        ...

    def finish(self) -> None:
        """Wait until everything is done."""
        ...


class HostStream:
    """The CPU: every run and copy is done when its call returns."""

    handle = 0

    def wait(self) -> None:
        pass

    def mark(self) -> None:
        pass

    def upload(self, place: ort.OrtValue, array: np.ndarray) -> None:
        place.update_inplace(np.ascontiguousarray(array))

    def copy(self, place: ort.OrtValue, source: ort.OrtValue) -> None:
        place.update_inplace(source.numpy())

    def finish(self) -> None:
        pass


@dataclass
class _Staging:
    """Page-locked memory for the uploads of one evaluation, by size; copies from other memory would block."""

    blocks: defaultdict[int, list[ctypes.Array[ctypes.c_char]]] = field(default_factory=lambda: defaultdict(list))
    used: Counter[int] = field(default_factory=Counter)


class CudaStream:
    """One stream of a GPU, destroyed when it is no longer referenced.

    Args:
        index: of the GPU.
        driver: the CUDA driver's library.

    Raises:
        BackendError: no driver, or the driver's error; OutOfMemory: the device has no memory left.
    """

    def __init__(self, index: int, driver: Any = None) -> None:
        self._driver: Any = driver or load_driver()
        if self._driver is None:
            raise BackendError(f"cuda:{index} needs NVIDIA's driver, whose library does not load")

        device = ctypes.c_int()
        self._context = ctypes.c_void_p()
        self._stream = ctypes.c_void_p()
        self._events: list[ctypes.c_void_p] = []
        self._staging = [_Staging() for _ in range(AHEAD)]
        self._evaluations = 0

        self._check("cuInit", 0)
        self._check("cuDeviceGet", ctypes.byref(device), index)
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)  # the one ONNX Runtime uses too
        blocks = [staging.blocks for staging in self._staging]
        held = (self._driver, device, self._context, self._stream, self._events, blocks)
        # At the end of the process the driver does it, and sessions that work on the stream may still be there.
        weakref.finalize(self, _release, *held).atexit = False

        self._call("cuStreamCreate", ctypes.byref(self._stream), 0)
        self.handle = int(self._stream.value or 0)
        self._events += [self._event() for _ in range(AHEAD)]

    def wait(self) -> None:
        # This event was recorded AHEAD evaluations ago, or never, which counts as done.
        self._call("cuEventSynchronize", self._events[self._turn])
        self._staging[self._turn].used.clear()

    def mark(self) -> None:
        self._call("cuEventRecord", self._events[self._turn], self._stream)
        self._evaluations += 1

    def upload(self, place: ort.OrtValue, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)
        size = array.nbytes
        block = self._block(size)
        ctypes.memmove(block, array.ctypes.data, size)

        source = ctypes.cast(block, ctypes.c_void_p)
        self._call("cuMemcpyHtoDAsync_v2", _address(place), source, ctypes.c_size_t(size), self._stream)

    def copy(self, place: ort.OrtValue, source: ort.OrtValue) -> None:
        size = 4 * math.prod(source.shape())
        self._call("cuMemcpyDtoDAsync_v2", _address(place), _address(source), ctypes.c_size_t(size), self._stream)

    def finish(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    @property
    def _turn(self) -> int:
        return self._evaluations % AHEAD

    def _event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), _BLOCKING_SYNC | _DISABLE_TIMING)
        return event

    def _block(self, size: int) -> ctypes.Array[ctypes.c_char]:
        """A block that no other upload of this evaluation uses. Sizes are powers of two, so that there are few."""
        size = 1 << max(12, (size - 1).bit_length())
        staging = self._staging[self._turn]
        blocks = staging.blocks[size]
        used = staging.used[size]
        if used == len(blocks):
            address = ctypes.c_void_p()
            self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
            array_type = ctypes.c_char * size
            blocks.append(array_type.from_address(address.value or 0))

        staging.used[size] = used + 1
        return blocks[used]

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver that needs the context, which is set for each thread."""
        self._check("cuCtxSetCurrent", self._context)
        self._check(name, *arguments)

    def _check(self, name: str, *arguments: Any) -> None:
        function = getattr(self._driver, name)
        code = function(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorName(code, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {code}"
            kind = OutOfMemory if code == _OUT_OF_MEMORY else BackendError
            raise kind(f"{name} failed: {reason}")


def _address(value: ort.OrtValue) -> ctypes.c_uint64:
    return ctypes.c_uint64(value.data_ptr())


def _release(
    driver: Any,
    device: ctypes.c_int,
    context: ctypes.c_void_p,
    stream: ctypes.c_void_p,
    events: Sequence[ctypes.c_void_p],
    blocks: Sequence[Mapping[int, Sequence[ctypes.Array[ctypes.c_char]]]],
) -> None:
    """Release everything; errors are ignored, there is no caller left. The thread's own context stays as it was."""
    driver.cuCtxPushCurrent_v2(context)
    if stream:
        driver.cuStreamSynchronize(stream)
        driver.cuStreamDestroy_v2(stream)
    for event in events:
        driver.cuEventDestroy_v2(event)
    for blocks_by_size in blocks:
        for same_size in blocks_by_size.values():
            for block in same_size:
                driver.cuMemFreeHost(ctypes.cast(block, ctypes.c_void_p))
    driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    driver.cuDevicePrimaryCtxRelease_v2(device)
