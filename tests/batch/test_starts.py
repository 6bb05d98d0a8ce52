"""Threads and processes of a batch that the system has none to give for: one clear error, and nothing stays behind."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from intarsia.batch.running.codec_pool import CodecPool
from intarsia.batch.running.row_supply import RowSupply
from intarsia.batch.running.worker_pool import WorkerPool
from intarsia.batch.settings import Options
from intarsia.errors import BackendError
from intarsia.images.access import Access
from intarsia.images.fetch import fetch

SENTENCE = "thread {} cannot be started: can't start new thread"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Thread starts fail after so many of them."""
    start = threading.Thread.start

    def after(count: int) -> None:
        left = [count]

        def fail(self: threading.Thread) -> None:
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
            start(self)

        monkeypatch.setattr(threading.Thread, "start", fail)

    return after


def test_a_pool_ends_the_threads_that_did_start(failing):
    before = threading.active_count()
    failing(2)
    with pytest.raises(BackendError, match=SENTENCE.format("intarsia-codec-2")):
        CodecPool(4, ahead=1)
    assert threading.active_count() == before


def test_a_supply_whose_thread_cannot_start_says_so(failing):
    failing(0)
    with pytest.raises(BackendError, match=SENTENCE.format("intarsia-supply")):
        RowSupply([], None, lambda: None)


def test_a_worker_pool_ends_the_process_without_a_listener(failing, monkeypatch, tmp_path):
    started, popen = [], subprocess.Popen

    def remember(*arguments: Any, **more: Any) -> Any:
        started.append(popen(*arguments, **more))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    failing(0)
    with pytest.raises(BackendError, match=SENTENCE.format("intarsia-listen")):
        WorkerPool(Options(backend="null"), tmp_path, ["cpu"], queue.SimpleQueue())
    [process] = started
    assert process.poll() is not None
    process.stdin.close()
    process.stdout.close()


def test_a_worker_pool_without_a_process(monkeypatch, tmp_path):
    def fail(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(BackendError, match="a worker process cannot be started: Resource temporarily unavailable"):
        WorkerPool(Options(backend="null"), tmp_path, ["cpu"], queue.SimpleQueue())


def test_the_thread_that_resolves_a_host(failing):
    failing(0)
    with pytest.raises(BackendError, match=SENTENCE.format("intarsia-resolver")):
        fetch("init_image", "http://example.org/x.png", Access())
