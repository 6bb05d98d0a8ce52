"""Bursts are taken in whole; where more keeps coming than can be taken in, some is refused and the rest stays quick."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from intarsia.server.admission import Admission, Overloaded


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Crowd:
    """Threads that each take a turn, and hold it until they are let go."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []
        self.done: list[int] = []

    def grow(self, count: int, waiting: int) -> None:
        """Begin so many more, and wait until that many wait for a turn."""
        for number in range(count):
            thread = threading.Thread(target=self._take, args=(number,))
            self.threads.append(thread)
            thread.start()
        _until(lambda: self.admission._waiting == waiting)

    def finish(self) -> int:
        """Let all go; returns how many had their turn."""
        self.gate.set()
        for thread in self.threads:
            thread.join(30)
        return len(self.done)

    def _take(self, number: int) -> None:
        with self.admission:
            self.gate.wait(30)
            self.done.append(number)


def _until(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(3000):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it did not come to that")


def _enter(admission: Admission) -> None:
    with admission:
        return


def test_a_burst_is_taken_in_whole():
    crowd = Crowd(Admission(Clock()))
    crowd.grow(100, waiting=96)
    assert crowd.finish() == 100


def test_where_requests_keep_waiting_only_a_few_may_wait():
    clock = Clock()
    crowd = Crowd(Admission(clock))
    crowd.grow(24, waiting=20)
    clock.now = 0.4
    crowd.grow(1, waiting=21)  # it has not been long

    clock.now = 0.6
    for _ in range(10):
        with pytest.raises(Overloaded, match="more requests arrive than this server can take in"):
            _enter(crowd.admission)
    assert crowd.finish() == 25


def test_sixteen_clients_are_never_too_many():
    clock = Clock()
    crowd = Crowd(Admission(clock))
    crowd.grow(8, waiting=4)
    clock.now = 1000.0
    crowd.grow(8, waiting=12)
    assert crowd.finish() == 16


def test_once_nobody_waits_a_burst_is_taken_in_again():
    clock = Clock()
    admission = Admission(clock)
    first = Crowd(admission)
    first.grow(30, waiting=26)
    clock.now = 10.0
    assert first.finish() == 30

    second = Crowd(admission)
    second.grow(40, waiting=36)
    assert second.finish() == 40


def test_work_that_fails_gives_its_turn_away():
    admission = Admission(Clock())
    for _ in range(10):
        with pytest.raises(ZeroDivisionError), admission:
            raise ZeroDivisionError
    _enter(admission)
