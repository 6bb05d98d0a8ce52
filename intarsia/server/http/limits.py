"""Limits by client: requests a second, and keys that may be tried.

Both hold a bounded number of clients, and forget the one that was seen longest ago. All of it belongs to one thread,
that of the event loop.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from intarsia.lru import Lru

__all__ = ["ALLOWED", "KeyAttempts", "RateLimit", "Verdict", "client_network"]

Clock = Callable[[], float]
"""Seconds that never go back."""

_CLIENTS = 10_000

# Addresses whose network is remembered: a client looks it up with each connection and request.
_ADDRESSES = 1024


@dataclass(frozen=True)
class Verdict:
    """Whether a request may go on, and otherwise the whole seconds after which it may: at least 1."""

    allowed: bool
    retry_after: int = 0


ALLOWED = Verdict(True)


class RateLimit:
    """A token bucket for each client: ``burst`` requests at once, and ``rate`` a second after that.

    Args:
        rate: tokens that come back in a second, more than 0.
        burst: tokens that a bucket holds at most, and at first; at least 1.
        clients: buckets that are kept. One that is forgotten begins full again, so owners of keys and addresses
            belong into limits of their own: nobody can have his bucket forgotten by making up names of the other.
    """

    def __init__(self, rate: float, burst: float, *, clients: int = _CLIENTS, clock: Clock = time.monotonic) -> None:
        if not (0 < rate < math.inf and 1 <= burst < math.inf):
            raise ValueError(f"a rate must be above 0 and a burst at least 1, not {rate} and {burst}")
        self._rate, self._burst, self._clock = rate, burst, clock
        # Client → tokens, and when there were as many.
        self._buckets: Lru[str, tuple[float, float]] = Lru(clients)

    def take(self, client: str) -> Verdict:
        """Take a token for one request. A request that is refused takes none."""
        now = self._clock()
        tokens, since = self._buckets.get(client) or (self._burst, now)
        tokens = min(self._burst, tokens + (now - since) * self._rate)

        if tokens < 1:
            self._buckets.put(client, (tokens, now))
            return _later((1 - tokens) / self._rate)
        self._buckets.put(client, (tokens - 1, now))
        return ALLOWED


class KeyAttempts:
    """Wrong keys by client: after ``most`` of them in ``seconds``, none is compared until the oldest is as old.

    Keys cannot be guessed; this keeps those who try from costing anything, and makes them visible.
    """

    def __init__(
        self, most: int = 20, seconds: float = 60.0, *, clients: int = _CLIENTS, clock: Clock = time.monotonic
    ) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._failures: Lru[str, deque[float]] = Lru(clients)

    def verdict(self, client: str) -> Verdict:
        """Whether a key of this client may be compared."""
        failures = self._failures.get(client)
        if failures is None or len(failures) < self._most:
            return ALLOWED
        left = failures[0] + self._seconds - self._clock()
        return ALLOWED if left <= 0 else _later(left)

    def failed(self, client: str) -> None:
        """Note that a key has been compared and was nobody's. A missing key is no attempt."""
        failures = self._failures.get(client)
        if failures is None:
            failures = deque(maxlen=self._most)
            self._failures.put(client, failures)
        failures.append(self._clock())


@lru_cache(_ADDRESSES)
def client_network(address: str) -> str:
    """The network that counts as one client: an IPv4 address, or the /64 of an IPv6 one, which one customer has.

    Text that is no address, such as that of a Unix socket, stays as it is.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))


def _later(seconds: float) -> Verdict:
    return Verdict(False, max(1, math.ceil(seconds)))
