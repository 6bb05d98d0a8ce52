"""The cache that forgets its least recently used entry first."""

from __future__ import annotations

import pytest

from intarsia.lru import Lru


def test_the_least_recently_used_is_evicted():
    evicted = []
    cache = Lru(2, evicted.append)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert evicted == [2]
    assert (list(cache), list(cache.values())) == (["a", "c"], [1, 3])
    assert cache.get("b") is None


def test_a_value_that_is_replaced_is_not_evicted_and_becomes_the_newest():
    evicted = []
    cache = Lru(2, evicted.append)
    for key, value in (("a", 1), ("b", 2), ("a", 3)):
        cache.put(key, value)
    assert evicted == []
    assert list(cache) == ["b", "a"]
    assert cache.get("a") == 3


def test_a_value_that_is_taken_out_is_not_evicted():
    evicted = []
    cache = Lru(2, evicted.append)
    cache.put("a", 1)
    assert cache.pop("a") == 1
    assert ("a" in cache, len(cache), evicted) == (False, 0, [])
    with pytest.raises(KeyError):
        cache.pop("a")


def test_without_a_capacity_nothing_is_evicted_but_by_hand():
    evicted = []
    cache = Lru(None, evicted.append)
    for number in range(100):
        cache.put(number, number)
    cache.evict(50)
    assert evicted == [50]
    cache.clear()
    assert evicted == [50, *range(50), *range(51, 100)]
