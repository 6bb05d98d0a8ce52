"""How many requests are taken in at the same time, and when there are too many.

What is refused is refused early: before its body is parsed, its images are decoded, or the database is asked. A server
with too much to do would otherwise spend its time on what it refuses.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from intarsia.errors import IntarsiaError
from intarsia.server.store.store import QueueFull

__all__ = ["AT_ONCE", "Admission", "Overloaded", "RecentlyFull"]

AT_ONCE = 4
"""Requests that are checked and stored at once. More would only share the interpreter; a few wait for the disk."""

# Requests that may wait: any burst up to so many is taken in.
_BURST = 256

# Seconds that requests may have had to wait without a break. After that more come than can be taken in, and a long
# queue makes every one of them slow without any being done sooner (Nichols and Jacobson, "Controlling Queue Delay",
# ACM Queue 2012): only a short one is kept, until it is empty.
_STANDING = 0.1
_SHORT = 12


class Overloaded(IntarsiaError):
    """More requests arrive than can be taken in."""


class Admission:
    """A context for the work of taking a request in: a few at once, and no long queue that stands.

    It belongs to one event loop; those that wait have their turn in the order in which they came.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._working = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._since: float | None = None  # when requests began to wait, without a break since

    def check(self) -> None:
        """Raise Overloaded where a request that came now would not be let in; takes no turn, and never waits."""
        is_standing = self._since is not None and self._clock() - self._since > _STANDING
        if len(self._waiting) >= (_SHORT if is_standing else _BURST):
            raise Overloaded("more requests arrive than this server can take in; try again later")

    async def __aenter__(self) -> None:
        """Wait for a turn.

        Raises:
            Overloaded: too many wait already.
        """
        if self._working < AT_ONCE:
            self._working += 1
            return

        self._since = self._clock() if self._since is None else self._since
        self.check()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(turn)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pass_on()

    def _leave(self, turn: asyncio.Future[None]) -> None:
        """A client has gone while it waited, or just as it had its turn."""
        if turn.cancelled() or not turn.done():
            if turn in self._waiting:
                self._waiting.remove(turn)
            self._note_break()
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give a turn to whoever has waited longest, or back."""
        while self._waiting:
            turn = self._waiting.popleft()
            self._note_break()
            if not turn.done():
                turn.set_result(None)
                return
        self._working -= 1

    def _note_break(self) -> None:
        if not self._waiting:
            self._since = None


class RecentlyFull:
    """Queues that were full a moment ago: refused again without another look into the database.

    Its methods may be called from any thread.

    Args:
        seconds: how long a full queue counts as full. Places that become free in the meantime stay unused for as long.
        clock: seconds that only grow.
    """

    def __init__(self, seconds: float = 0.1, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        # Owner, or None for the queue of all → its refusal, and when that was.
        self._refused: dict[str | None, tuple[QueueFull, float]] = {}

    def check(self, owner: str | None = None) -> None:
        """Raise QueueFull where the queue of all, or the owner's share of it, has just been full."""
        for whose in {None, owner}:
            refusal, when = self._refused.get(whose, (None, 0.0))
            if refusal is not None and self._clock() - when < self._seconds:
                raise QueueFull(refusal.most, refusal.owner)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Remember a QueueFull that is raised inside."""
        try:
            yield
        except QueueFull as exc:
            self._refused[exc.owner] = (exc, self._clock())
            raise
