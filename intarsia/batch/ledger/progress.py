"""Progress: how far a run is, how fast it goes, and what is left, as numbers and as one line."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["RateMeter", "Progress"]

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0

# A rate is that of the latest minute, or of as many rows, so that one row in ten minutes has one too.
_SECONDS, _ROWS = _MINUTE, 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        rows: that it accounts for.
        finished: of them, those done before the run began among them.
        failed: of those.
        rate: rows a second; None before there is one to be told.
    """

    rows: int
    finished: int
    failed: int
    rate: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None where there is none."""
        if not self.rate:
            return None
        return max(self.rows - self.finished, 0) / self.rate

    def line(self, failures: str = "failed") -> str:
        """``12,400/50,000 · 14.2/s · 44 min left · 3 failed``; before there is a rate, without it.

        Args:
            failures: what rows are called that are not as they should be.
        """
        parts = [f"{self.finished:,}/{self.rows:,}"]
        if self.rate and self.seconds_left is not None:
            parts += [_rate(self.rate), f"{_duration(self.seconds_left)} left"]
        parts.append(f"{self.failed:,} {failures}")
        return " · ".join(parts)


class RateMeter:
    """Rows a second, of the latest minute or longer.

    Args:
        clock: seconds, from any beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples = deque([(clock(), 0)])

    def add(self, done: int) -> float | None:
        """Rows done until now → the rate; None as long as none is done."""
        now = self._clock()
        self._samples.append((now, done))

        # The oldest sample goes as soon as the next one is old enough.
        while len(self._samples) > 2:
            then, done_then = self._samples[1]
            if now - then < _SECONDS or done - done_then < _ROWS:
                break
            self._samples.popleft()

        began, done_before = self._samples[0]
        if done == done_before or now <= began:
            return None
        return (done - done_before) / (now - began)


def _rate(rate: float) -> str:
    """A rate in the unit in which it is above one."""
    if rate >= 1:
        return f"{rate:.1f}/s"
    if rate * _MINUTE >= 1:
        return f"{rate * _MINUTE:.1f}/min"
    return f"{rate * _HOUR:.1f}/h"


def _duration(seconds: float) -> str:
    """Seconds in words, in a unit of which there are not too many."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.1f} h"
    return f"{seconds / _DAY:.1f} days"
