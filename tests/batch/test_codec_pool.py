"""The threads that read and write: what goes first, how far ahead, and the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from intarsia.batch import Options
from intarsia.batch.running.codec_pool import CodecPool


class Log:
    """What was done, in order; the first piece of work waits until it is let go."""

    def __init__(self) -> None:
        self.done, self.begun, self.go = [], threading.Event(), threading.Event()

    def wait(self) -> None:
        self.begun.set()
        assert self.go.wait(10)

    def note(self, name: object) -> Callable[[], None]:
        return lambda: self.done.append(name)


def test_what_is_to_be_written_goes_before_what_is_to_be_read():
    log, pool = Log(), CodecPool(1, ahead=10)
    pool.read(log.wait)
    assert log.begun.wait(10)
    for number in range(3):
        pool.read(log.note(f"read {number}"))
    for number in range(2):
        pool.write(log.note(f"write {number}"))
    log.go.set()
    pool.close()
    assert log.done == ["write 0", "write 1", "read 0", "read 1", "read 2"]


def test_no_more_is_read_ahead_than_was_said_while_writing_goes_on():
    log, pool = Log(), CodecPool(1, ahead=2)
    for number in range(5):
        pool.read(log.note(number))
    for count in (2, 3, 4):
        for _ in range(count + 1):  # one thread: between two of these it takes whatever it may
            written = threading.Event()
            pool.write(written.set)
            assert written.wait(10)
        assert log.done == list(range(count))
        pool.arrived()
    pool.arrived()
    pool.close()
    assert log.done == list(range(5))


def test_closing_waits_for_what_is_queued_and_for_what_that_queues():
    log, pool = Log(), CodecPool(2, ahead=1)

    def read(number: int) -> None:
        pool.write(log.note(number))
        pool.arrived()

    for number in range(50):
        pool.read(lambda number=number: read(number))
    pool.close()
    assert sorted(log.done) == list(range(50))


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "expected"),
    [(8, None, None, 8), (64, None, None, 8), (2, 2, None, 2), (16, 4, None, 4), (1, None, None, 2), (2, 2, 1, 1)],
)
def test_a_process_has_threads_for_its_share_of_the_cores(monkeypatch, cores, workers, threads, expected):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert Options(workers=workers, threads=threads).thread_count == expected
