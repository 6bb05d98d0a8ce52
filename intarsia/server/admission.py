"""How many requests are checked and stored at the same time, and when there are too many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from intarsia.errors import IntarsiaError

__all__ = ["Admission", "Overloaded"]

# Requests that are worked on at once. More would only share the interpreter; what a disk has to flush is waited for.
_AT_ONCE = 4

# Requests that may wait: any burst up to so many is taken in.
_BURST = 256

# Seconds that requests may have had to wait without a break. After that more come than can be taken in, and a long
# queue makes every one of them slow without any being done sooner (Nichols and Jacobson, "Controlling Queue Delay",
# ACM Queue 2012): only a short one is kept, until it is empty.
_STANDING = 0.5
_SHORT = 16


class Overloaded(IntarsiaError):
    """More requests arrive than can be taken in."""


class Admission:
    """A context for the work of taking a request in: a few at once, and no long queue that stands.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._working = self._waiting = 0
        self._since: float | None = None  # when requests began to wait, without a break since

    def __enter__(self) -> None:
        """Wait for a turn.

        Raises:
            Overloaded: too many wait already.
        """
        with self._changed:
            if self._working >= _AT_ONCE:
                self._wait()
            self._working += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._working -= 1
            self._changed.notify()

    def _wait(self) -> None:
        now = self._clock()
        self._since = now if self._since is None else self._since
        is_standing = now - self._since > _STANDING
        if self._waiting >= (_SHORT if is_standing else _BURST):
            raise Overloaded("more requests arrive than this server can take in; try again later")

        self._waiting += 1
        try:
            self._changed.wait_for(lambda: self._working < _AT_ONCE)
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._since = None
