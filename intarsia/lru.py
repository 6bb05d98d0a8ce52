"""A cache that forgets its least recently used entry first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Lru"]

Key = TypeVar("Key")
Value = TypeVar("Value")


class Lru(Generic[Key, Value]):
    """Entries in the order of their last use. Not for several threads at once.

    Args:
        capacity: entries that are kept; one more evicts the least recently used. None keeps all, for a caller that
            evicts by its own rule.
        on_evict: called with each value that is evicted, but not with those that :meth:`pop` hands out.
    """

    def __init__(self, capacity: int | None, on_evict: Callable[[Value], None] | None = None) -> None:
        self._capacity, self._on_evict = capacity, on_evict
        self._entries: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """The value, which becomes the most recently used; None where there is none."""
        if key not in self._entries:
            return None
        value = self._entries.pop(key)
        self._entries[key] = value
        return value

    def peek(self, key: Key) -> Value:
        """The value, whose place in the order stays. KeyError where there is none."""
        return self._entries[key]

    def put(self, key: Key, value: Value) -> None:
        """Add or replace a value as the most recently used."""
        self._entries.pop(key, None)
        self.make_room()
        self._entries[key] = value

    def make_room(self) -> None:
        """Evict until one more fits: before the next value is made, where two would need too much memory."""
        while self._capacity is not None and len(self._entries) >= self._capacity:
            self.evict(next(iter(self._entries)))

    def pop(self, key: Key) -> Value:
        """Take a value out; the caller owns it. KeyError where there is none."""
        return self._entries.pop(key)

    def evict(self, key: Key) -> None:
        """Forget a value. KeyError where there is none."""
        value = self._entries.pop(key)
        if self._on_evict is not None:
            self._on_evict(value)

    def clear(self) -> None:
        """Evict everything, the least recently used first."""
        while self._entries:
            self.evict(next(iter(self._entries)))

    def values(self) -> Iterator[Value]:
        """Values, the least recently used first."""
        return iter(self._entries.values())

    def __iter__(self) -> Iterator[Key]:
        """Keys, the least recently used first."""
        return iter(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
