"""Recording work once and replaying it: CUDA graphs behind one small function.

Everything else here knows of two callables only: a *recorder* takes work and gives back its replay. That of a CUDA
device is :class:`CudaRecorder`; without one the work itself is its own replay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch

__all__ = ["CudaRecorder", "Pace", "Recorder", "Replay", "Work"]

Work = Callable[[], None]
Replay = Callable[[], None]
Recorder = Callable[[Work], Replay]

# Evaluations that the host may be ahead of the device: enough that the device never waits for the host, few
# enough that progress means something and a cancelled picture leaves soon.
_AHEAD = 2


class CudaRecorder:
    """Records work as CUDA graphs, which share one pool of memory: what one computes in between, all others reuse.

    The graphs are replayed one after the other on one stream, and nothing that lies in the pool is read after its
    graph has run, so the order does not matter. Work is run once before it is recorded, in which libraries choose
    their algorithms and kernels are compiled: running it must do no harm.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: WeakSet[Any] = WeakSet()

    def __call__(self, work: Work) -> Replay:
        """Record; raises what torch raises where something in ``work`` cannot be captured."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                work()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # A pool lives as long as its graphs do. Other threads of the process may use the device meanwhile.
            pool = next((each.pool() for each in self._graphs), None)
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        self._graphs.add(graph)
        return graph.replay


class Pace:
    """Keeps the host from running further ahead of the device than a few evaluations."""

    def __init__(self) -> None:
        self._events: deque[torch.cuda.Event] = deque()

    def wait(self) -> None:
        """Before something is launched: until the device has come near enough. Waits for an event, not for it all."""
        while len(self._events) >= _AHEAD:
            self._events.popleft().synchronize()

    def mark(self) -> None:
        """After it was launched."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)
