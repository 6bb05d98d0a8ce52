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
from typing import NamedTuple

from intarsia.errors import IntarsiaError
from intarsia.server.store.store import QueueFull

__all__ = ["AT_ONCE", "RETRY_AFTER", "Admission", "Overloaded", "RecentlyFull"]

AT_ONCE = 2
"""Requests that are checked and stored at once: one has the interpreter while the other waits for the disk."""

# Requests that may wait: any burst up to so many is taken in.
_BURST = 256

# Seconds that requests may have had to wait without a break. After that more come than can be taken in, and a long
# queue makes every one of them slow without any being done sooner (Nichols and Jacobson, "Controlling Queue Delay",
# ACM Queue 2012): only a short one is kept, until it is empty.
_STANDING = 0.1

# Seconds that a request may then expect to wait. Its own turn and its way through the event loop come on top.
_EXPECTED = 0.03

# So many clients are never too many: they may all wait, however long it takes.
_MANY = 32

RETRY_AFTER = 8
"""Most seconds after which a client that met a full queue, or a busy server, may ask again; it counts until then."""

# Seconds that a request may wait at all, of more clients: it came in a large burst, or turns take longer than expected.
_LONGEST = 0.05

# So many may always wait, however long their turns take: where images are large, a few clients that come at the same
# moment are no sign of too many.
_FEW = 4

# Free places of which some are left a moment later, whoever fills them.
_PLENTY = 16

# So many may wait at most, of more clients, however quick the turns are.
_SHORT = 14

# Weight of the last turn in the mean time between two.
_WEIGHT = 0.1


class Overloaded(IntarsiaError):
    """More requests arrive than can be taken in."""


class _Waiting(NamedTuple):
    """A request that waits: for which turn, since when, and how many waited before it."""

    turn: asyncio.Future[None]
    since: float
    before: int


class Admission:
    """A context for the work of taking a request in: a few at once, and no long queue that stands.

    It belongs to one event loop; those that wait have their turn in the order in which they came.

    Args:
        clock: seconds that only grow.

    Attributes:
        connected: how many connections have asked for something within ``RETRY_AFTER``, where that is known.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.connected: Callable[[], int] = lambda: 0
        self._clock = clock
        self._working = 0
        self._waiting: deque[_Waiting] = deque()
        self._since: float | None = None  # when requests began to wait, without a break since
        self._refused: deque[float] = deque(maxlen=_MANY + 1)  # when the last ones were
        self._passed_on = 0.0  # when a turn was last passed on, where requests have waited since
        self._interval = 0.0  # mean seconds between two turns that were passed on

    def check(self) -> None:
        """Raise Overloaded where a request that came now would not be let in; takes no turn, and never waits."""
        if len(self._waiting) >= self._most_waiting():
            raise self._refusal()

    def _most_waiting(self) -> int:
        """How many may wait at this moment."""
        now = self._clock()
        if self._since is None or now - self._since <= _STANDING:
            return _BURST
        if self._clients(now) <= _MANY or not self._interval:
            return _MANY
        return min(_SHORT, max(_FEW, int(_EXPECTED / self._interval)))

    def _clients(self, now: float) -> int:
        """How many clients there are at least.

        Those that are here, and those that were refused and will be back; or those that are connected, of which most
        are between two requests.
        """
        here = self._working + len(self._waiting)
        refused = sum(now - when <= RETRY_AFTER for when in self._refused)
        return max(here + refused, self.connected())

    def _refusal(self) -> Overloaded:
        self._refused.append(self._clock())
        return Overloaded("more requests arrive than this server can take in; try again later")

    async def __aenter__(self) -> None:
        """Wait for a turn.

        Raises:
            Overloaded: too many wait already, or the turn does not come in time.
        """
        if self._working < AT_ONCE:
            self._working += 1
            return

        if self._since is None:
            self._since = self._passed_on = self._clock()
        self.check()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(turn, self._clock(), len(self._waiting)))
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
            self._waiting = deque(waiting for waiting in self._waiting if waiting.turn is not turn)
            self._note_break()
        elif turn.exception() is None:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give a turn to whoever has waited longest, or back."""
        if self._waiting:
            self._measure()
        while self._waiting:
            waiting = self._waiting.popleft()
            self._note_break()
            if waiting.turn.done():
                continue
            if self._is_late(waiting):
                waiting.turn.set_exception(self._refusal())
                continue
            waiting.turn.set_result(None)
            return
        self._working -= 1

    def _is_late(self, waiting: _Waiting) -> bool:
        """Whether a request has waited for too long, among those of many clients."""
        now = self._clock()
        return waiting.before >= _FEW and now - waiting.since > _LONGEST and self._clients(now) > _MANY

    def _measure(self) -> None:
        """Note how long the turn took that is passed on, while others waited for it."""
        now = self._clock()
        took = now - self._passed_on
        self._interval += (took - self._interval) * (_WEIGHT if self._interval else 1.0)
        self._passed_on = now

    def _note_break(self) -> None:
        if not self._waiting:
            self._since = None


class RecentlyFull:
    """Queues that were full, or far from it, a moment ago: no other look into the database is needed.

    Its methods may be called from any thread.

    Args:
        seconds: how long a look counts. Places that become free in a full queue stay unused for as long.
        clock: seconds that only grow.
    """

    def __init__(self, seconds: float = 0.1, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        # Owner, or None for the queue of all → its refusal, and when that was.
        self._refused: dict[str | None, tuple[QueueFull, float]] = {}
        # Owner → until when the places that were found free are more than are filled.
        self._free_until: dict[str, float] = {}

    def check(self, owner: str | None = None) -> None:
        """Raise QueueFull where the queue of all, or the owner's share of it, has just been full."""
        for whose in {None, owner}:
            refusal, when = self._refused.get(whose, (None, 0.0))
            if refusal is not None and self._clock() - when < self._seconds:
                raise QueueFull(refusal.most, refusal.owner)

    def note_room(self, owner: str, places: int) -> None:
        """Remember how many jobs an owner could still queue."""
        self._free_until[owner] = self._clock() + self._seconds if places >= _PLENTY else 0.0

    def had_room(self, owner: str) -> bool:
        """Whether an owner had a moment ago more places than are filled since, so that the next job finds one too.

        Where it does not after all, storing it is refused.
        """
        return self._clock() < self._free_until.get(owner, 0.0)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Remember a QueueFull that is raised inside."""
        try:
            yield
        except QueueFull as exc:
            self._refused[exc.owner] = (exc, self._clock())
            raise
