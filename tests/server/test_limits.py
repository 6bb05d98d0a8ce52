"""Rates and key attempts on a clock that a test turns, and who a client is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intarsia.server.http.authentication import Authentication, Sender
from intarsia.server.http.keys import Keys
from intarsia.server.http.keys_editing import add_key
from intarsia.server.http.limits import ALLOWED, KeyAttempts, RateLimit, Verdict, client_network


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_passes_then_the_rate(clock):
    limit = RateLimit(0.5, 3, clock=clock)
    assert [limit.take("a").allowed for _ in range(5)] == [True, True, True, False, False]
    assert limit.take("a") == Verdict(False, 2)
    clock.now += 1.5
    assert limit.take("a") == Verdict(False, 1)
    clock.now += 0.5
    assert [limit.take("a").allowed for _ in range(2)] == [True, False]


def test_a_bucket_fills_no_further_than_its_burst_and_is_its_clients_alone(clock):
    limit = RateLimit(10, 2, clock=clock)
    assert [limit.take("a").allowed for _ in range(3)] == [True, True, False]
    assert limit.take("b").allowed
    clock.now += 3600
    assert [limit.take("a").allowed for _ in range(3)] == [True, True, False]


@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.1, 10), st.integers(1, 10))
def test_no_stretch_of_time_has_more_requests_than_burst_and_rate_give(pauses, rate, burst):
    clock = Clock()
    limit = RateLimit(rate, burst, clock=clock)
    passed = []
    for pause in pauses:
        clock.now += pause
        if limit.take("a").allowed:
            passed.append(clock.now)

    for first, begin in enumerate(passed):
        for last, end in enumerate(passed[first:], start=first):
            # Rounding of a few sums of seconds.
            assert last - first + 1 <= burst + rate * (end - begin) + 1e-6


@given(st.floats(0.01, 10), st.integers(1, 5))
def test_waiting_as_long_as_was_said_is_enough(rate, burst):
    clock = Clock()
    limit = RateLimit(rate, burst, clock=clock)
    while (verdict := limit.take("a")).allowed:
        pass
    clock.now += verdict.retry_after
    assert limit.take("a").allowed


def test_only_so_many_clients_are_kept_and_the_oldest_is_forgotten(clock):
    limit = RateLimit(0.001, 1, clients=3, clock=clock)
    assert [limit.take(name).allowed for name in "abc"] == [True] * 3
    assert not limit.take("a").allowed
    assert limit.take("d").allowed  # in the place of b
    assert [limit.take(name).allowed for name in "acd"] == [False] * 3
    assert len(limit._buckets) == 3


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1), (float("inf"), 1)])
def test_a_rate_of_nothing_is_refused(rate, burst):
    with pytest.raises(ValueError, match="above 0"):
        RateLimit(rate, burst)


def test_twenty_wrong_keys_in_a_minute_close_the_door_until_the_first_is_a_minute_old(clock):
    attempts = KeyAttempts(clock=clock)
    for _ in range(20):
        assert attempts.verdict("a") == ALLOWED
        attempts.failed("a")
        clock.now += 1
    assert attempts.verdict("a") == Verdict(False, 40)
    assert attempts.verdict("b") == ALLOWED
    clock.now += 39.5
    assert attempts.verdict("a") == Verdict(False, 1)
    clock.now += 0.5
    assert attempts.verdict("a") == ALLOWED
    attempts.failed("a")
    assert attempts.verdict("a") == Verdict(False, 1)


def test_wrong_keys_now_and_then_close_nothing(clock):
    attempts = KeyAttempts(clock=clock)
    for _ in range(100):
        assert attempts.verdict("a") == ALLOWED
        attempts.failed("a")
        clock.now += 3.1


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_a_client_is_an_address_or_the_network_of_one_customer(address, network):
    assert client_network(address) == network


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Keys, str]:
    path = tmp_path / "keys.txt"
    key = add_key(path, "ann")
    return Keys.read(path), key


def test_of_ten_thousand_keys_tried_twenty_are_answered_and_the_right_one_passes(keys, clock):
    known, right = keys
    counted = []
    door = Authentication(keys=known, count=counted.append, attempts=KeyAttempts(clock=clock))

    replies = [door.check({"key": f"guess {number}"}, {}, "192.0.2.7") for number in range(10_000)]
    assert [reply.status for reply in replies] == [401] * 20 + [429] * 9_980
    assert counted == ["key"] * 20 + ["key_attempts"] * 9_980
    assert {reply.retry_after for reply in replies[20:]} == {60}
    assert replies[-1].headers["retry-after"] == "60"

    # Behind a proxy everybody has one address: a stranger's guesses lock nobody out who has a key.
    assert door.check({"key": right}, {}, "192.0.2.7") == Sender("ann")
    assert door.check({"key": "guess"}, {}, "192.0.2.7").status == 429
    clock.now += 60
    assert door.check({"key": "guess"}, {}, "192.0.2.7").status == 401


def test_addresses_of_one_customer_share_their_attempts(keys, clock):
    known, right = keys
    door = Authentication(keys=known, count=[].append, attempts=KeyAttempts(clock=clock))
    statuses = [door.check(None, {"key": "x"}, f"2001:db8::{number:x}").status for number in range(21)]
    assert statuses == [401] * 20 + [429]
    assert door.check(None, {"key": right}, "2001:db8:0:1::1") == Sender("ann")


def test_a_missing_key_is_refused_but_is_no_attempt(keys, clock):
    known, right = keys
    door = Authentication(keys=known, count=[].append, attempts=KeyAttempts(clock=clock))
    replies = [door.check({"key": 5}, {}, "192.0.2.7") for _ in range(100)]
    assert {(reply.status, reply.message) for reply in replies} == {(401, "API key is required")}
    assert door.check({}, {"authorization": f"Bearer {right}"}, "192.0.2.7") == Sender("ann")


def test_requests_are_limited_by_owner_and_without_keys_by_client(keys, clock):
    known, right = keys
    counted = []
    door = Authentication(
        keys=known, count=counted.append, owners=RateLimit(1, 1, clock=clock), clients=RateLimit(1, 1, clock=clock)
    )
    assert door.check({"key": right}, {}, "192.0.2.7") == Sender("ann")
    refusal = door.check({"key": right}, {}, "192.0.2.8")
    assert (refusal.status, refusal.retry_after, counted) == (429, 1, ["rate"])

    open_door = Authentication(keys=None, count=counted.append, clients=RateLimit(1, 1, clock=clock))
    assert open_door.check({"key": "anything"}, {}, "192.0.2.7") == Sender("")
    assert open_door.check(None, {}, "192.0.2.7").status == 429
    assert open_door.check(None, {}, "192.0.2.8") == Sender("")


@given(st.text(), st.binary(max_size=200))
def test_no_reply_repeats_a_key_that_was_tried(tmp_path_factory, in_body, in_header):
    path = tmp_path_factory.getbasetemp() / "tried-keys.txt"
    if not path.exists():
        add_key(path, "ann")
    door = Authentication(keys=Keys.read(path), count=[].append)
    refusal = door.check({"key": in_body}, {"key": in_header.decode("latin-1")}, "192.0.2.7")
    assert refusal.message in ("API key is required", "Invalid API key")
