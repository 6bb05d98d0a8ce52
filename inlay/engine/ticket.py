"""A request in flight, as its caller sees it: a future with progress and cancellation."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np

from inlay.engine.resolve import Resolved
from inlay.engine.result import Progress, Result
from inlay.errors import Cancelled

__all__ = ["Ticket"]


class Ticket(Future[Result]):
    """The future of one request's :class:`Result`.

    ``cancel()`` works until the result is there: the request's pictures leave at the next evaluation,
    nothing of them is decoded, and ``result()`` raises :class:`inlay.errors.Cancelled`.
    """

    def __init__(self, resolved: Resolved, began: float) -> None:
        super().__init__()
        self.resolved = resolved
        self.timings: dict[str, float] = {"resolve": time.perf_counter() - began}
        self.began = began
        self.denoise_began = 0.0
        self.generated: dict[int, np.ndarray] = {}
        self.warnings: list[str] = list(resolved.warnings)
        self.cancel_asked = False
        self._events: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
        self._reported = 0

    def cancel(self) -> bool:
        """Ask for the request to be dropped; False if it is done already."""
        if self.done():
            return False
        self.cancel_asked = True
        return True

    def progress(self) -> Iterator[Progress]:
        """Progress as it happens, until the request is done, failed or cancelled. For one reader."""
        while (event := self._events.get()) is not None:
            yield event

    def report(self, step: int) -> None:
        """Called by the worker: every picture has done ``step`` evaluations."""
        if step > self._reported:
            self._reported = step
            self._events.put(Progress(step, self.resolved.plan.sampler.evaluations))

    def finish(self, result: Result) -> None:
        """Called by the worker, once."""
        if not self.done():
            self.set_result(result)
            self._events.put(None)

    def fail(self, error: BaseException) -> None:
        """Called by the worker; the first error counts."""
        if not self.done():
            self.set_exception(error)
            self._events.put(None)

    def drop(self) -> None:
        """Called by the worker once the request's lanes have left."""
        self.fail(Cancelled("the request was cancelled"))
