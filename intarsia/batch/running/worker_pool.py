"""The worker processes of a local run: started, fed, listened to, and started again when they die."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.run_stats import WorkerState
from intarsia.batch.python_path import python_path
from intarsia.batch.running import messages
from intarsia.batch.running.jobs import Job
from intarsia.batch.settings import Options
from intarsia.errors import BackendError, IntarsiaError, RequestError, WeightsError
from intarsia.threads import start_thread

__all__ = ["Event", "WorkerPool", "WorkerProcess"]

_MOST_STILLBORN = 3

# glibc's malloc hands memory back to the system as soon as an image is done with, and gets it anew, page by page, for
# the next one: 3 % of a row's time at 512². With thresholds of its own a worker keeps what it had at its peak.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}


@dataclass(eq=False, kw_only=True)
class WorkerProcess:
    """One worker process.

    Attributes:
        capacity: jobs that it takes at once; 0 until it is ready.
        jobs: what it has in flight, by line.
        bucket: what its latest jobs had in common.
        state: its last report; None before the first.
        dying: why it cannot go on, where it said so.
    """

    index: int
    device: str
    process: subprocess.Popen[bytes]
    capacity: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)
    bucket: Hashable = None
    state: WorkerState | None = None
    dying: str = ""

    @property
    def room(self) -> int:
        """How many jobs it takes now."""
        if any(job.alone for job in self.jobs.values()):
            return 0
        return self.capacity - len(self.jobs)


@dataclass(frozen=True)
class Event:
    """A message of a worker, or its end (``message`` is None)."""

    worker: WorkerProcess
    message: messages.Message | None


class WorkerPool:
    """Worker processes. All methods belong to one thread.

    Args:
        devices: a device for each worker.
        events: filled by threads that listen to the workers.
    """

    def __init__(
        self, options: Options, out: Path, devices: Sequence[str], events: queue.SimpleQueue[Event | None]
    ) -> None:
        self._options = options
        self._out = out
        self._events = events
        self._past: list[WorkerState] = []
        self._stillborn = 0
        self.restarts = 0
        self.workers = [self._start(index, device) for index, device in enumerate(devices)]

    @property
    def busy(self) -> bool:
        return any(worker.jobs for worker in self.workers)

    def give(self, worker: WorkerProcess, job: Job) -> None:
        """Send a job. A dead worker takes it too: its end is an event of its own."""
        worker.jobs[job.number] = job
        self._send(worker, messages.RunJob(job))

    def receive(self, worker: WorkerProcess, message: messages.Message) -> Record | None:
        """Take note of a worker's message; the record where it brings one.

        Raises:
            BackendError, WeightsError, RequestError: the worker cannot open its engine; no other could.
        """
        match message:
            case messages.EngineRefused():
                raise _refusal(message)
            case messages.Ready(capacity):
                worker.capacity = capacity
                self._stillborn = 0
            case messages.Dying(reason):
                worker.dying = reason
            case messages.RowDone(record, state):
                worker.state = state
                return record
            case messages.Bye(state):
                worker.state = state
            case _:
                raise AssertionError(f"no message of a worker: {message}")
        return None

    def replace(self, worker: WorkerProcess) -> tuple[list[Job], str]:
        """Start another in the place of one that died; its unfinished jobs, and how it ended.

        Raises:
            BackendError: workers die before they are ready, again and again.
        """
        reason = _last_words(worker, worker.process.wait())
        _hang_up(worker.process)

        if not worker.capacity:
            self._stillborn += 1
            if self._stillborn >= _MOST_STILLBORN:
                raise BackendError(f"{reason} before it was ready, {_MOST_STILLBORN} times in a row")

        self.restarts += 1
        if worker.state is not None:
            self._past.append(worker.state)
        self.workers[worker.index] = self._start(worker.index, worker.device)
        return list(worker.jobs.values()), reason

    def states(self) -> list[WorkerState]:
        """The last reports of all processes, dead ones too."""
        current = [worker.state for worker in self.workers if worker.state is not None]
        return self._past + current

    def dismiss(self, message: messages.Finish | messages.Cancel) -> None:
        """Let all workers finish or cancel; their last messages are events."""
        for worker in self.workers:
            self._send(worker, message)

    def kill(self) -> None:
        """End whatever is left."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
            _hang_up(worker.process)

    def _start(self, index: int, device: str) -> WorkerProcess:
        worker = WorkerProcess(index=index, device=device, process=_spawn())
        try:
            start_thread(self._listen, "intarsia-listen", worker)
        except BackendError:
            worker.process.kill()
            worker.process.wait()
            raise

        start = messages.Start(options=self._options.for_workers(), out=str(self._out.absolute()), device=device)
        self._send(worker, start)
        return worker

    def _listen(self, worker: WorkerProcess) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                try:
                    message = messages.decode(line)
                except ValueError:
                    break  # torn: it was killed while it wrote
                self._events.put(Event(worker, message))
        self._events.put(Event(worker, None))

    def _send(self, worker: WorkerProcess, message: messages.Message) -> None:
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(messages.encode(message))
            worker.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # dead; its listener puts the event


def _spawn() -> subprocess.Popen[bytes]:
    # -P: what lies in the folder that the run is started in, another `intarsia` among it, is not for import.
    command = [sys.executable, "-P", "-m", "intarsia.batch.running.worker"]
    environment = {**_MALLOC, **os.environ, "PYTHONPATH": python_path()}

    # A session of its own: Ctrl-C in the terminal is the parent's to handle.
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
    except OSError as exc:
        raise BackendError(f"a worker process cannot be started: {exc.strerror or exc}") from exc


def _last_words(worker: WorkerProcess, status: int) -> str:
    """How a worker ended; ``status`` is its process's."""
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    if worker.dying:
        how = f"{how}: {worker.dying}"
    return f"the worker process died ({how})"


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe to a process that is gone; what was in it has lost its reader."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def _refusal(message: messages.EngineRefused) -> IntarsiaError:
    """The worker's own error, as far as the classes go that opening an engine raises."""
    if message.kind == "RequestError":
        return RequestError("engine", message=message.text)
    if message.kind == "WeightsError":
        return WeightsError(message.text)
    return BackendError(message.text)
