"""A CUDA driver that works on the host's memory: what is copied is copied at once, what is called is written down."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any


class HostDriver:
    """The functions that :class:`intarsia.backends.onnx.stream.CudaStream` calls.

    A copy from the host reads its source only when something waits for it, as far as one can tell from outside: the
    source's bytes are compared then with those at the time of the call.

    Attributes:
        calls: names of functions and what they were about, in order.
        changed: sources that were written to before their copy was waited for.
        failing: codes of functions that are to fail.
    """

    def __init__(self) -> None:
        self.calls, self.changed, self.failing = [], [], {}
        self.alive = {"stream": set(), "event": set(), "memory": {}, "context": 0}
        self._numbers = itertools.count(1000)
        self._after: dict[int, int] = {}
        self._pending: list[tuple[int, bytes]] = []
        self._done = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: object) -> int:
            self.calls.append(name)
            if name in self.failing:
                return self.failing[name]
            getattr(self, f"_{name.removesuffix('_v2')}", lambda *_: None)(*arguments)
            return 0

        return call

    def names(self, *wanted: str) -> list[str]:
        return [name for name in self.calls if name in wanted]

    def _make(self, place: Any, kind: str) -> None:
        place._obj.value = next(self._numbers)
        self.alive[kind].add(place._obj.value)

    def _cuGetErrorName(self, code: int, place: Any) -> None:
        place._obj.value = {2: b"CUDA_ERROR_OUT_OF_MEMORY"}.get(code, b"CUDA_ERROR_UNKNOWN")

    def _cuDevicePrimaryCtxRetain(self, place: Any, device: object) -> None:
        place._obj.value, self.alive["context"] = 7, self.alive["context"] + 1

    def _cuDevicePrimaryCtxRelease(self, device: object) -> None:
        self.alive["context"] -= 1

    def _cuStreamCreate(self, place: Any, flags: int) -> None:
        assert flags == 0, "the default stream would not wait for it"
        self._make(place, "stream")

    def _cuStreamDestroy(self, stream: ctypes.c_void_p) -> None:
        self.alive["stream"].remove(stream.value)

    def _cuEventCreate(self, place: Any, flags: object) -> None:
        self._make(place, "event")

    def _cuEventDestroy(self, event: ctypes.c_void_p) -> None:
        self.alive["event"].remove(event.value)

    def _cuMemHostAlloc(self, place: Any, size: ctypes.c_size_t, flags: object) -> None:
        memory = ctypes.create_string_buffer(size.value)
        place._obj.value = ctypes.addressof(memory)
        self.alive["memory"][place._obj.value] = memory

    def _cuMemFreeHost(self, address: ctypes.c_void_p) -> None:
        del self.alive["memory"][address.value]

    def _cuMemcpyHtoDAsync(self, target: Any, source: Any, size: ctypes.c_size_t, stream: object) -> None:
        assert any(start <= source.value < start + len(kept) for start, kept in self.alive["memory"].items())
        ctypes.memmove(target.value, source.value, size.value)
        self._pending.append((source.value, ctypes.string_at(source.value, size.value)))

    def _cuMemcpyDtoDAsync(self, target: Any, source: Any, size: ctypes.c_size_t, stream: object) -> None:
        ctypes.memmove(target.value, source.value, size.value)

    def _cuEventRecord(self, event: Any, stream: object) -> None:
        self._after[event.value] = self._done + len(self._pending)

    def _cuEventSynchronize(self, event: Any) -> None:
        self._wait_for(self._after.get(event.value, 0) - self._done)

    def _cuStreamSynchronize(self, stream: object) -> None:
        self._wait_for(len(self._pending))

    def _wait_for(self, count: int) -> None:
        for _ in range(count):
            address, before = self._pending.pop(0)
            self._done += 1
            if ctypes.string_at(address, len(before)) != before:
                self.changed.append(address)
