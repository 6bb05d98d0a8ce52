"""CUDA graphs: work is captured once and then replayed.

All other files use two callables only: a *capturer* takes a function and returns its replay. The one of a CUDA device
is :class:`CudaGraphCapturer`. Without a capturer the function is simply called again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch

from intarsia.backends.driver import CAPTURE_LOCK
from intarsia.backends.torch.memory import is_out_of_memory
from intarsia.errors import BackendError
from intarsia.execution import Capture

__all__ = ["CudaGraphCapturer", "GraphCapturer", "Replay", "RunAhead", "Work", "captures", "searching"]

Work = Callable[[], None]
Replay = Callable[[], None]
GraphCapturer = Callable[[Work], Replay]

# Evaluations that the host may be ahead of the device: enough that the device never waits for the host, few
# enough that progress means something and a cancelled image leaves soon.
_MOST_AHEAD = 2


class CudaGraphCapturer:
    """Captures CUDA graphs that share one memory pool: intermediate results of one lie where those of the others do.

    The graphs are replayed one after the other on one stream, and nothing that lies in the pool is read after its
    graph has run, so the order does not matter. Work is run once before it is captured, so that libraries choose
    their algorithms and kernels are compiled: running it must do no harm.

    Args:
        required: True raises where something cannot be captured; False launches it, and all that comes later, instead.

    Attributes:
        refused: why nothing more is captured; empty while everything is.
    """

    def __init__(self, device: torch.device, *, required: bool = False) -> None:
        self._device = device
        self._required = required
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: WeakSet[Any] = WeakSet()
        self.refused = ""

    def __call__(self, work: Work) -> Replay:
        """A function that replays ``work``, or ``work`` itself where capturing has failed.

        Raises:
            RuntimeError: what torch raises where ``work`` fails, where memory does not suffice, or, with ``required``,
                where something in ``work`` cannot be captured.
        """
        if self.refused:
            return work

        with torch.cuda.device(self._device), CAPTURE_LOCK:
            self._warm_up(work)
            before = torch.cuda.current_stream()
            try:
                return self._captured(work)
            except RuntimeError as exc:
                # torch leaves its capture stream current where the end of a capture fails
                torch.cuda.set_stream(before)
                # up to 2.11 its allocator then takes the pool for one that is being captured into, for good
                self._graphs = WeakSet()
                if self._required or is_out_of_memory(exc):
                    raise
                self.refused = f"steps are launched one operation at a time: capturing failed ({_first_line(exc)})"
        return work

    def _warm_up(self, work: Work) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)

    def _captured(self, work: Work) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # A pool lives as long as its graphs do. Other threads of the process may use the device meanwhile.
        pool = next((other.pool() for other in self._graphs), None)

        # cuBLAS's workspace of this stream, which the warm-up has made, belongs to the process, and others free it:
        # torch.compile's CUDA graphs, and from 2.12 on the destruction of any graph. Cleared before the capture, a new
        # one is made in the graphs' own pool; cleared after it, nothing outside shares that one.
        torch._C._cuda_clearCublasWorkspaces()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        finally:
            torch._C._cuda_clearCublasWorkspaces()
        self._graphs.add(graph)
        return graph.replay


def searching(work: Work) -> Work:
    """``work`` with cuDNN's benchmark mode on: all algorithms of each new convolution are measured.

    It is on in the warm-up, which measures, and in the capture, which then takes the fastest.
    """

    def run() -> None:
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            work()
        finally:
            torch.backends.cudnn.benchmark = before

    return run


def captures(choice: Capture, device: torch.device, fused: bool) -> bool:
    """Whether steps are captured; BackendError where that was asked for and cannot be."""
    can_capture = device.type == "cuda" and fused
    if choice == "on" and not can_capture:
        kernels = "fused" if fused else "plain"
        raise BackendError(
            f"captured steps need fused kernels on a CUDA device; here are {kernels} ones on {device}; "
            "capture must be auto or off"
        )
    return can_capture and choice != "off"


def _first_line(error: BaseException) -> str:
    line, _, _ = str(error).partition("\n")
    return line or type(error).__name__


class RunAhead:
    """Keeps the host at most a few evaluations ahead of the device."""

    def __init__(self) -> None:
        self._events: deque[torch.cuda.Event] = deque()

    def wait(self) -> None:
        """Call before a launch: waits for an event until the device has caught up far enough, not for all of it."""
        while len(self._events) >= _MOST_AHEAD:
            oldest = self._events.popleft()
            oldest.synchronize()

    def mark(self) -> None:
        """Call after a launch."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)
