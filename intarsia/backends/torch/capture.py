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

from intarsia.backends.driver import CAPTURE_LOCK
from intarsia.backends.torch.memory import is_out_of_memory

__all__ = ["CudaRecorder", "Pace", "Recorder", "Replay", "Work", "searching"]

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

    Args:
        required: True raises where something cannot be captured; False launches it, and all that comes later, instead.

    Attributes:
        refused: why nothing more is captured; empty while everything is.
    """

    def __init__(self, device: torch.device, *, required: bool = False) -> None:
        self._device, self._required = device, required
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
        pool = next((each.pool() for each in self._graphs), None)

        # cuBLAS's workspace of this stream, which the warm-up has made, belongs to the process, and others free it:
        # torch.compile's CUDA graphs, and from 2.12 on the destruction of any graph. Cleared before the capture, a new
        # one is made in the graphs' own pool; cleared after it, nobody outside shares that one.
        torch._C._cuda_clearCublasWorkspaces()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        finally:
            torch._C._cuda_clearCublasWorkspaces()
        self._graphs.add(graph)
        return graph.replay


def searching(work: Work) -> Work:
    """``work`` with cuDNN's benchmark mode on: it runs all algorithms of a convolution that it has not met.

    It is on in the warm-up, which finds them, and in the capture, which then takes what was found.
    """

    def run() -> None:
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            work()
        finally:
            torch.backends.cudnn.benchmark = before

    return run


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


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
