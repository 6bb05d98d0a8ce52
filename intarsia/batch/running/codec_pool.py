"""Codec threads: they decode inputs and encode outputs, encoding first.

A row is encoded while it is in the processor's cache, where it would otherwise wait behind all that are decoded ahead
of it; and few are in memory at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from intarsia.errors import BackendError
from intarsia.threads import start_thread

__all__ = ["CodecPool"]

Work = Callable[[], None]


class CodecPool:
    """Threads that run readings and writings; none of these may raise. Methods may be called from any thread.

    Args:
        threads: how many work at a time, at reading and writing together.
        ahead: how many may have been read, or be at it, without having come back by :meth:`arrived`.

    Raises:
        BackendError: a thread cannot be started; none of the others stays.
    """

    def __init__(self, threads: int, ahead: int) -> None:
        self._readings: deque[Work] = deque()
        self._writings: deque[Work] = deque()
        self._ahead = ahead
        self._closed = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        try:
            for number in range(threads):
                self._threads.append(start_thread(self._work, f"intarsia-codec-{number}"))
        except BackendError:
            self.close()
            raise

    def read(self, work: Work) -> None:
        """Queue a reading; :meth:`arrived` has to be called once for each."""
        with self._changed:
            self._readings.append(work)
            self._changed.notify()

    def write(self, work: Work) -> None:
        """Queue a writing."""
        with self._changed:
            self._writings.append(work)
            self._changed.notify()

    def arrived(self) -> None:
        """What was read is through, or has failed: one more may be read."""
        with self._changed:
            self._ahead += 1
            self._changed.notify()

    def close(self) -> None:
        """End the threads once nothing is queued."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Work | None:
        """The next piece of work, as soon as there is one; None at the end."""
        with self._changed:
            while True:
                if self._writings:
                    return self._writings.popleft()
                if self._readings and self._ahead:
                    self._ahead -= 1
                    return self._readings.popleft()
                if self._closed and not self._readings:
                    return None
                self._changed.wait()
