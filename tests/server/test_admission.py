"""Bursts are taken in whole; where more keeps coming than can be taken in, some is refused and the rest stays quick."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs the extra serve")

from intarsia.server.admission import AT_ONCE, Admission, Overloaded, RecentlyFull
from intarsia.server.store.store import QueueFull


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Crowd:
    """Tasks that each take a turn, and hold it until they are let go."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.is_open = False
        self.gates: dict[int, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.begun: list[int] = []
        self.done: list[int] = []

    async def grow(self, count: int) -> None:
        """Begin so many more, and let each come as far as it can."""
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._take(len(self.tasks))))
        await asyncio.sleep(0)

    async def let_one_go(self) -> None:
        """End the turn of whoever has had it for longest, and let the next one begin."""
        number = self.begun[len(self.done)]
        self.gates[number].set()
        await self.tasks[number]
        await asyncio.sleep(0)

    async def finish(self) -> int:
        """Let all go; returns how many had their turn."""
        self.is_open = True
        for gate in self.gates.values():
            gate.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return len(self.done)

    async def _take(self, number: int) -> None:
        async with self.admission:
            self.begun.append(number)
            gate = self.gates[number] = asyncio.Event()
            if self.is_open:
                gate.set()
            await gate.wait()
            self.done.append(number)


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The test, run in an event loop of its own."""

    def run() -> None:
        asyncio.run(test())

    run.__doc__ = test.__doc__
    return run


@in_a_loop
async def test_a_burst_is_taken_in_whole_and_in_order():
    crowd = Crowd(Admission(Clock()))
    await crowd.grow(100)
    assert crowd.begun == list(range(AT_ONCE))
    assert await crowd.finish() == 100
    assert crowd.begun == list(range(100))


@in_a_loop
async def test_where_requests_keep_waiting_only_a_few_may_wait():
    clock = Clock()
    crowd = Crowd(Admission(clock))
    await crowd.grow(AT_ONCE + 40)
    clock.now = 0.1
    await crowd.grow(1)  # it has not been long

    clock.now = 0.11
    for _ in range(10):
        with pytest.raises(Overloaded, match="more requests arrive than this server can take in"):
            crowd.admission.check()
        with pytest.raises(Overloaded):
            async with crowd.admission:
                raise AssertionError("it has a turn")
    await crowd.finish()


@in_a_loop
async def test_what_has_waited_for_too_long_is_refused_as_its_turn_comes():
    """However slow the turns become, none but the first four is let in that has waited for more than 50 ms."""
    clock = Clock()
    crowd = Crowd(Admission(clock))
    await crowd.grow(AT_ONCE + 40)
    clock.now = 0.04
    await crowd.grow(2)
    clock.now = 0.08
    assert await crowd.finish() == AT_ONCE + 4 + 2
    refused = [task.exception() for task in crowd.tasks if task.exception()]
    assert [type(error) for error in refused] == [Overloaded] * 36
    assert (crowd.admission._working, len(crowd.admission._waiting)) == (0, 0)


@in_a_loop
async def test_a_small_burst_is_taken_in_however_slow_the_turns_are():
    clock = Clock()
    crowd = Crowd(Admission(clock))
    await crowd.grow(32)
    clock.now = 0.5
    assert await crowd.finish() == 32


@in_a_loop
async def test_who_leaves_as_it_is_refused_has_no_turn_to_pass_on():
    clock = Clock()
    crowd = Crowd(Admission(clock))
    await crowd.grow(AT_ONCE + 40)
    clock.now = 0.1
    crowd.tasks[0].cancel()  # all that wait are refused as its turn is to be passed on
    await asyncio.sleep(0)
    for task in crowd.tasks[AT_ONCE:]:
        task.cancel()
    assert await crowd.finish() == AT_ONCE - 1
    assert crowd.admission._working == 0


@in_a_loop
async def test_a_few_clients_are_never_too_many():
    """Thirty-two that each send another request once they have an answer, for which they wait for seconds."""
    clock = Clock()
    crowd = Crowd(Admission(clock))
    await crowd.grow(32)
    for _ in range(200):
        clock.now += 0.1
        await crowd.let_one_go()
        await crowd.grow(1)
    assert await crowd.finish() == 232


@in_a_loop
async def test_a_client_that_was_refused_counts_until_it_should_be_back():
    """So that many stay many while most of them wait elsewhere."""
    for seconds, done in ((7.9, AT_ONCE + 4), (8.1, AT_ONCE + 20)):
        clock = Clock()
        admission = Admission(clock)
        first = Crowd(admission)
        await first.grow(AT_ONCE + 40)
        clock.now = 0.1
        assert await first.finish() == AT_ONCE + 4

        clock.now += seconds
        second = Crowd(admission)
        await second.grow(AT_ONCE + 20)
        clock.now += 0.07
        assert await second.finish() == done


@in_a_loop
async def test_clients_that_are_connected_count_while_they_wait_for_nothing():
    """Twenty requests of few clients all wait; where more are connected, four do for longer than 50 ms."""
    for connected, done in ((32, AT_ONCE + 18), (33, AT_ONCE + 4)):
        clock = Clock()
        crowd = Crowd(Admission(clock))
        crowd.admission.connected = lambda connected=connected: connected
        await crowd.grow(AT_ONCE + 18)
        clock.now = 0.06
        assert await crowd.finish() == done


@in_a_loop
async def test_of_many_clients_a_few_may_wait_however_long_a_turn_takes():
    """Three that come at the same moment with large images are not too many."""
    clock = Clock()
    crowd = Crowd(Admission(clock))
    crowd.admission.connected = lambda: 100
    await crowd.grow(AT_ONCE + 4)
    for _ in range(20):
        clock.now += 0.3
        await crowd.let_one_go()
        await crowd.grow(1)
        assert len(crowd.admission._waiting) == 4
    with pytest.raises(Overloaded):
        crowd.admission.check()
    assert await crowd.finish() == AT_ONCE + 24


@in_a_loop
async def test_how_many_may_wait_follows_from_how_long_a_turn_takes():
    """Where there are many clients: 30 ms are five turns of 6 ms; four may always wait, and 14 are the most."""
    for seconds, most in ((0.012, 4), (0.0055, 5), (0.002, 14)):
        clock = Clock()
        admission = Admission(clock)
        for _ in range(40):
            admission._refusal()
        crowd = Crowd(admission)
        await crowd.grow(AT_ONCE + most + 1)
        while clock.now < 0.3:
            clock.now += seconds
            await crowd.let_one_go()
            await crowd.grow(1)

        await crowd.grow(20)
        assert len(crowd.admission._waiting) == most
        with pytest.raises(Overloaded):
            crowd.admission.check()
        await crowd.let_one_go()
        crowd.admission.check()
        await crowd.finish()


@in_a_loop
async def test_once_nobody_waits_a_burst_is_taken_in_again():
    clock = Clock()
    admission = Admission(clock)
    first = Crowd(admission)
    await first.grow(30)
    clock.now = 10.0
    assert await first.finish() == 30

    second = Crowd(admission)
    await second.grow(40)
    assert await second.finish() == 40


@in_a_loop
async def test_work_that_fails_gives_its_turn_away():
    admission = Admission(Clock())
    for _ in range(10):
        with pytest.raises(ZeroDivisionError):
            async with admission:
                raise ZeroDivisionError
    async with admission:
        admission.check()


@in_a_loop
async def test_who_leaves_while_it_waits_or_as_its_turn_comes_takes_none():
    crowd = Crowd(Admission(Clock()))
    await crowd.grow(AT_ONCE + 3)
    crowd.tasks[AT_ONCE].cancel()
    await asyncio.sleep(0)

    crowd.tasks[0].cancel()  # whose turn goes to the next that waits, which leaves at the same moment
    await asyncio.sleep(0)
    crowd.tasks[AT_ONCE + 1].cancel()
    assert await crowd.finish() == AT_ONCE  # the three others that had a turn, and the last
    async with crowd.admission:
        assert crowd.admission._working == 1


def test_a_queue_that_was_full_is_full_for_a_moment_without_a_look():
    clock = Clock()
    full = RecentlyFull(0.1, clock)
    with pytest.raises(QueueFull), full.noting():
        raise QueueFull(64)
    for owner in (None, "", "ann"):
        with pytest.raises(QueueFull, match="64 jobs are queued"):
            full.check(owner)
    clock.now = 0.11
    full.check("ann")


def test_a_share_that_is_used_up_is_its_owners_alone():
    full = RecentlyFull(0.1, Clock())
    with pytest.raises(QueueFull), full.noting():
        raise QueueFull(2, "ann")
    full.check(None)
    full.check("bob")
    with pytest.raises(QueueFull, match="2 jobs of this key are queued"):
        full.check("ann")


def test_a_queue_with_plenty_of_room_has_it_for_a_moment_without_a_look():
    clock = Clock()
    full = RecentlyFull(0.1, clock)
    assert not full.had_room("ann")
    full.note_room("ann", 16)
    assert full.had_room("ann")
    assert not full.had_room("bob")
    clock.now = 0.11
    assert not full.had_room("ann")

    full.note_room("ann", 16)
    full.note_room("ann", 15)  # which others may fill
    assert not full.had_room("ann")
