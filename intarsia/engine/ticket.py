"""A request in flight, as its caller sees it: a future with progress and cancellation."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from intarsia.engine.preview import NOT_ASKED, StepPreviews
from intarsia.engine.resolve import Resolved
from intarsia.engine.result import Progress, Result
from intarsia.errors import Cancelled

__all__ = ["Ticket"]

log = logging.getLogger("intarsia")


class Ticket(Future[Result]):
    """The future of one request's :class:`Result`.

    ``cancel()`` works until the result is there: the request's images leave at the next evaluation,
    nothing of them is decoded, and ``result()`` raises :class:`intarsia.errors.Cancelled`.

    Callbacks run in the engine's thread. There, and in a process that was forked after the request was submitted,
    ``result()``, ``exception()`` and ``progress()`` of a request that is not done raise
    :class:`intarsia.errors.BackendError`: it would never be.

    Args:
        check_wait: raises where waiting for the request would never end.
        preview_every: evaluations from one preview to the next; None makes none.
    """

    def __init__(
        self,
        resolved: Resolved,
        began: float,
        check_wait: Callable[[], None] = lambda: None,
        *,
        preview_every: int | None = None,
    ) -> None:
        super().__init__()
        self.preview_every = preview_every
        self.resolved = resolved
        self.timings: dict[str, float] = {"resolve": time.perf_counter() - began}
        self.began = began
        self.cancel_asked = False
        self._check_wait = check_wait
        self._process = os.getpid()
        self._events: list[Progress] = []
        self._listeners: list[Callable[[Progress], Any]] = []
        self._reported = 0

        # Guards what decides between a result and a cancellation; reentrant for handlers of signals.
        self._changed = threading.Condition(threading.RLock())
        self._settler: int | None = None
        self._over = False
        super().add_done_callback(_end_progress)  # the first of all callbacks

    def cancel(self) -> bool:
        """Ask for the request to be dropped; True where the result will not come, False where it is there already."""
        if self._over or os.getpid() != self._process:
            return False
        with self._changed:
            if self._settler is not None or self.done():
                return False
            self.cancel_asked = True
            return True

    def result(self, timeout: float | None = None) -> Result:
        """The result, as soon as it is there; see :meth:`concurrent.futures.Future.result`."""
        self._check()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What ended it, as soon as it has ended; see :meth:`concurrent.futures.Future.exception`."""
        self._check()
        return super().exception(timeout)

    def progress(self) -> Iterator[Progress]:
        """Progress as it happens, until the request is done, failed or cancelled; each reader has all of it."""
        for number in itertools.count():
            if number >= len(self._events):
                self._await_event(number)
            if number >= len(self._events):
                return
            yield self._events[number]

    def add_done_callback(self, fn: Callable[[Future[Result]], Any]) -> None:
        """Call ``fn`` with this ticket in the engine's thread once it is done, or at once where it is.

        What it raises in the engine's thread is logged, and ends neither the engine nor other callbacks. In a forked
        process a request that is not done is refused, as by ``result()``: it would never be called.
        """
        if os.getpid() != self._process:
            self._check()
        super().add_done_callback(partial(_call, fn))  # without self: a ticket is freed with its last reference

    def add_progress_callback(self, fn: Callable[[Progress], Any]) -> None:
        """Call ``fn`` in the engine's thread after each later evaluation. What it raises is logged.

        Where evaluations have been done already, it is called at once for the last of them.
        """
        with self._changed:
            self._listeners.append(fn)
            if self._events and not self._over:
                _tell(fn, self._events[-1])  # under the lock, so before the next one

    def report(self, step: int, previews: StepPreviews = NOT_ASKED) -> None:
        """Called by the worker: every image has done ``step`` evaluations."""
        if step <= self._reported:
            return
        progress = Progress(step, self.resolved.plan.sampler.evaluations, previews)
        with self._changed:
            self._reported = step
            self._events.append(progress)
            self._changed.notify_all()
            listeners = tuple(self._listeners)

        for listener in listeners:
            _tell(listener, progress)

    def finish(self, result: Result) -> None:
        """Called by the worker, once."""
        if self._settle():
            if self.cancel_asked:
                self.set_exception(_cancelled())
            else:
                self.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Called by the worker; the first error counts, and a cancellation more than that."""
        if self._settle():
            self.set_exception(_cancelled() if self.cancel_asked else error)

    def drop(self) -> None:
        """Called by the worker once the request's lanes have been removed."""
        self.fail(_cancelled())

    def _settle(self) -> bool:
        """Fix the outcome; False where it was fixed before."""
        with self._changed:
            if self._settler is not None or self.done():
                return False
            self._settler = threading.get_ident()
            return True

    def _check(self) -> None:
        if not self._over:
            self._check_wait()

    def _await_event(self, number: int) -> None:
        """Wait until there is an event of that number, or the request is over."""
        if self._over:
            return
        self._check_wait()
        with self._changed:
            self._changed.wait_for(lambda: self._over or number < len(self._events))

    def _end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _is_delivered_here(self) -> bool:
        """Whether this is the thread that calls the callbacks, rather than one that adds a callback after the end."""
        return threading.get_ident() == self._settler


def _end_progress(done: Future[Result]) -> None:
    assert isinstance(done, Ticket)
    done._end()


def _tell(listener: Callable[[Progress], Any], progress: Progress) -> None:
    try:
        listener(progress)
    except Exception:  # of the caller's; the engine goes on
        log.exception("a request's progress callback failed; the engine goes on")


def _call(fn: Callable[[Future[Result]], Any], done: Future[Result]) -> None:
    assert isinstance(done, Ticket)
    try:
        fn(done)
    except Exception:
        raise  # the future logs it
    except BaseException as exc:
        if not done._is_delivered_here():
            raise
        log.exception("a request's callback raised %s; the engine goes on", type(exc).__name__)


def _cancelled() -> Cancelled:
    return Cancelled("the request was cancelled")
