"""Thumbnails of many rows, made in processes: a decoder that crashes costs one thumbnail."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

from intarsia.batch.python_path import python_path
from intarsia.batch.sheet.thumbnails import READY, Thumbnail, ThumbnailTask
from intarsia.errors import BackendError, OutputError

__all__ = ["thumbnails"]

_TOGETHER = 32  # tasks that a process takes at once


def thumbnails(tasks: Iterable[ThumbnailTask], folder: Path, workers: int) -> Iterator[tuple[str, Thumbnail]]:
    """Make thumbnails; keys with what was made of them, in the order of the tasks.

    Raises:
        OutputError: one cannot be written.
        BackendError: no process can be started.
    """
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    all_workers = [_Worker(folder) for _ in range(workers)]
    for worker in all_workers:
        free.put(worker)

    def make(group: Sequence[ThumbnailTask]) -> list[tuple[str, Thumbnail]]:
        worker = free.get()
        try:
            return _made(worker, group)
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(workers, "intarsia-sheet")
    try:
        for made in pool.map(make, _groups(tasks)):
            yield from made
    finally:
        pool.shutdown(cancel_futures=True)
        for worker in all_workers:
            worker.close()


def _groups(tasks: Iterable[ThumbnailTask]) -> Iterator[list[ThumbnailTask]]:
    left = iter(tasks)
    while group := list(islice(left, _TOGETHER)):
        yield group


def _made(worker: _Worker, group: Sequence[ThumbnailTask]) -> list[tuple[str, Thumbnail]]:
    """The thumbnails of some tasks; where a task ends the process, it has none, and the others are made one by one."""
    names = worker.ask(group)
    if names is not None:
        return [(task.key, Thumbnail.of_name(name)) for task, name in zip(group, names, strict=True)]
    if len(group) == 1:
        return [(group[0].key, Thumbnail(""))]
    return [made for task in group for made in _made(worker, [task])]


class _Worker:
    """One process, started when it is first asked, and again where it has died."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, group: Sequence[ThumbnailTask]) -> list[str] | None:
        """Names of the thumbnails; None where the process has died of them."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        line = b""
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps([task.to_json() for task in group]).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line.endswith(b"\n"):
            self.close()
            return None

        answer = json.loads(line)
        if isinstance(answer, str):
            raise OutputError(f"the contact sheet cannot be written: {answer}")
        names: list[str] = answer
        return names

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: as for a run's workers, what lies in the present folder is not for import.
        command = [sys.executable, "-P", "-m", "intarsia.batch.sheet.thumbnail_worker", os.fspath(self._folder)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": python_path()},
                start_new_session=True,  # an interruption is the parent's to handle
            )
        except OSError as exc:
            raise BackendError(f"no process for thumbnails can be started: {exc.strerror or exc}") from exc

        assert self._process.stdout is not None
        if self._process.stdout.readline() != READY:
            raise BackendError("a process for thumbnails died before it was ready")
        return self._process
