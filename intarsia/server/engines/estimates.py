"""How long jobs will take, from how long the last ones took."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Throughput"]

# Network evaluations a second before anything has been measured.
_FIRST_GUESS = 2.0
_REMEMBERED = 50


class Throughput:
    """Network evaluations a second, while anything runs.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._since = 0.0  # when the time in which anything runs was last counted
        self._unused = 0.0  # seconds of it that no finished job has been set against
        self._done: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)

    def began(self, job_id: int) -> None:
        """A job has begun."""
        with self._lock:
            self._count()
            self._running.add(job_id)

    def ended(self, job_id: int, lane_rows: int) -> None:
        """A job has ended, after that many evaluations."""
        with self._lock:
            self._count()
            self._running.discard(job_id)
            if lane_rows:
                self._done.append((lane_rows, self._unused))
                self._unused = 0.0

    @property
    def evaluations_per_second(self) -> float:
        """Of the last jobs; a guess before there are any."""
        with self._lock:
            rows = sum(rows for rows, _ in self._done)
            seconds = sum(seconds for _, seconds in self._done)
        return rows / seconds if rows and seconds > 0 else _FIRST_GUESS

    def seconds(self, lane_rows: int) -> float:
        """How long so many evaluations take."""
        return lane_rows / self.evaluations_per_second

    def _count(self) -> None:
        now = self._clock()
        if self._running:
            self._unused += now - self._since
        self._since = now
