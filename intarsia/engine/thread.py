"""The engine's own thread: when it starts, what it takes in, and how it ends, also without ``close()``."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time

from intarsia.engine.ticket import Ticket
from intarsia.engine.worker import Worker
from intarsia.errors import BackendError, EngineStopped
from intarsia.threads import start_thread

__all__ = ["EngineThread"]

log = logging.getLogger("intarsia")

# How long the process's exit waits for the evaluations under way. A thread that comes out of native code while the
# interpreter is torn down ends the process with SIGABRT (before Python 3.14), whatever its exit code was to be.
_EXIT_SECONDS = 60.0

_running: set[EngineThread] = set()


class EngineThread:
    """Runs a worker on what is submitted, in one thread that starts with the first request.

    The engine holds it, it does not hold the engine: an engine that is dropped without ``close()`` ends it by
    :meth:`end`. It belongs to the process that submitted first; in a fork of it there is no such thread.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._inbox: queue.SimpleQueue[tuple[Ticket, ...] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: int | None = None
        self._ident: int | None = None
        self._closed = self._ended = self._prepares = False

        # Reentrant: a signal's handler may close the engine while its thread is in submit().
        self._lock = threading.RLock()
        self._turn = threading.Lock()

    def start(self) -> None:
        """Start before there is a request, and prepare the backend; does nothing where the thread runs already.

        Raises:
            BackendError: as :meth:`submit`.
        """
        self.check_open()
        self._process = os.getpid()
        with self._lock:
            self.check_open()
            if self._thread is None:
                self._prepares = True
                self._start()

    def submit(self, *tickets: Ticket) -> None:
        """Queue requests behind those that came before; of several none is begun before all are queued.

        Raises:
            BackendError: closed, used after a fork, or the thread cannot be started.
        """
        self.check_open()
        self._process = os.getpid()
        with self._lock:
            self.check_open()
            if self._thread is None:
                self._start()
            self._inbox.put(tickets)
        if self._ended:  # it ended between the check and the queue, by a signal's handler
            self._refuse_queued(EngineStopped("the engine is closed"))

    @property
    def is_open(self) -> bool:
        """Whether it takes requests: it was not closed, and has not failed."""
        return not self._closed

    def check_open(self) -> None:
        """Raise BackendError where nothing can be submitted any more, or not in this process."""
        if self._is_elsewhere():
            raise BackendError(
                f"the engine runs in process {self._process}, from which this one was forked; open an engine here"
            )
        if self._closed:
            raise EngineStopped("the engine is closed")

    def check_wait(self) -> None:
        """Raise BackendError where waiting for a request would never end: in a fork, and in a request's callback."""
        if self._is_elsewhere():
            raise BackendError(
                f"the request runs in process {self._process}, from which this one was forked; it cannot be waited for"
            )
        if threading.get_ident() == self._ident:
            raise BackendError("a callback cannot wait for the engine that calls it; submit there instead")

    def check_run(self) -> None:
        """Raise BackendError where a request cannot be submitted, or not be waited for."""
        self.check_open()
        self.check_wait()

    def close(self, cancel: bool) -> None:
        """Finish (or cancel) what is in flight and wait for it, unless called by the thread itself or in a fork."""
        if self._is_elsewhere():
            return
        if cancel:
            self._worker.cancel_all = True
        with self._lock:
            self.end()
            thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join()

    def end(self) -> None:
        """Have the thread end once what is in flight is done. No lock: the garbage collector calls it from anywhere."""
        if not self._is_elsewhere():
            self._closed = True
            self._inbox.put(None)

    def stop(self) -> None:
        """Have the thread end after the evaluation under way."""
        self._worker.cancel_all = True
        self.end()

    def join(self, seconds: float) -> bool:
        """Wait at most that long; True where the thread has ended."""
        if self._thread is not None and not self._is_elsewhere():
            self._thread.join(max(0.0, seconds))
            return not self._thread.is_alive()
        return True

    def _is_elsewhere(self) -> bool:
        return self._process is not None and self._process != os.getpid()

    def _start(self) -> None:
        _running.add(self)

        # Moved to the end of what atexit has, so that it runs before what the backend registered for itself.
        atexit.unregister(_stop_running)
        atexit.register(_stop_running)
        try:
            self._thread = start_thread(self._work, "intarsia-engine")
        except BaseException:  # the next request tries again; of two that do start, one has the turn
            _running.discard(self)
            raise

    def _work(self) -> None:
        """The thread's loop: admit what has arrived, then one turn of the lanes, until it is to end."""
        if not self._turn.acquire(blocking=False):
            return  # an interrupted start has left a thread that is at work

        self._ident = threading.get_ident()
        _running.add(self)
        is_open = True
        try:
            if self._prepares:
                self._worker.prepare()
            while is_open or self._worker.busy:
                is_open = self._take(is_open)
                self._worker.turn()
        except BaseException as exc:
            # Nothing is expected here; but no caller may wait for its result for ever.
            self._abandon(exc)
            raise
        finally:
            self._finish()

    def _take(self, is_open: bool) -> bool:
        """Admit everything that waits; block only where there is nothing else to do."""
        while is_open:
            try:
                tickets = self._inbox.get(block=not self._worker.busy)
            except queue.Empty:
                return True
            if tickets is None:
                return False
            for ticket in tickets:
                self._worker.add(ticket)
            del tickets, ticket  # or the last ones would be kept while this waits for the next
        return False

    def _abandon(self, error: BaseException) -> None:
        """The thread has failed: refuse new requests, fail those in flight."""
        self._closed = True
        failure = EngineStopped(f"the engine stopped: {type(error).__name__}: {error}")
        self._refuse_queued(failure)
        self._worker.fail_all(failure)

    def _finish(self) -> None:
        self._closed = self._ended = True
        self._refuse_queued(EngineStopped("the engine is closed"))
        try:
            self._worker.close()
        finally:
            self._ident = None
            _running.discard(self)

    def _refuse_queued(self, failure: BackendError) -> None:
        while True:
            try:
                tickets = self._inbox.get(block=False)
            except queue.Empty:
                return
            for ticket in tickets or ():
                ticket.fail(failure)


def _stop_running() -> None:
    """At the process's exit: drop what is in flight, and wait a bounded time for the evaluations under way."""
    deadline = time.monotonic() + _EXIT_SECONDS
    running = list(_running)
    for thread in running:
        thread.stop()
    if not all(thread.join(deadline - time.monotonic()) for thread in running):
        log.warning("the process ends although an evaluation is still running after %d seconds", _EXIT_SECONDS)
