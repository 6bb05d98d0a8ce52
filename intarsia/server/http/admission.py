"""How many requests are taken in at the same time, and when there are too many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from intarsia.server.http.error_replies import RETRY_AFTER, HttpError

__all__ = ["Admission"]

Value = TypeVar("Value")

_THREADS = 8

# Requests that may wait for a thread: any burst up to so many is taken in.
_BURST = 256

# Seconds that requests may have had to wait without a break. After that more come than can be taken in, and a long
# queue makes every one of them slow without any being done sooner (Nichols and Jacobson, "Controlling Queue Delay",
# ACM Queue 2012): only a short one is kept, until it is empty.
_STANDING = 0.5
_SHORT = 4


class Admission:
    """Takes requests in on a few threads, and refuses some with 429 once there are more than it can keep up with.

    It belongs to one event loop.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns = asyncio.Semaphore(_THREADS)
        self._threads = CapacityLimiter(_THREADS)
        self._clock = clock
        self._waiting = 0
        self._since: float | None = None  # when requests began to wait, without a break since

    async def run(self, accept: Callable[[], Value]) -> Value:
        """What ``accept`` returns, called in a thread.

        Raises:
            HttpError: too many requests are being taken in (429).
        """
        if self._is_overloaded():
            message = "more requests arrive than this server can take in; try again later"
            raise HttpError(429, message, retry_after=RETRY_AFTER)

        await self._turn()
        try:
            # Whoever has its turn has a thread.
            return await to_thread.run_sync(accept, limiter=self._threads)
        finally:
            self._turns.release()

    async def _turn(self) -> None:
        """Wait until fewer than all threads are busy; a client that hangs up meanwhile waits no more."""
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._since = None

    def _is_overloaded(self) -> bool:
        if self._waiting == 0:
            self._since = None
            return False
        now = self._clock()
        if self._since is None:
            self._since = now
        is_standing = now - self._since > _STANDING
        return self._waiting >= (_SHORT if is_standing else _BURST)
