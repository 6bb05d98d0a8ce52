"""The worker processes of a local run: started, fed, listened to, and started again when they die."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intarsia.batch.running.jobs import Job
from intarsia.batch.settings import Options
from intarsia.errors import BackendError, IntarsiaError, RequestError, WeightsError
from intarsia.threads import start_thread

__all__ = ["WorkerPool", "Event", "WorkerProcess"]

_STILLBORN = 3

# glibc's malloc hands memory back to the system as soon as a picture is done with, and gets it anew, page by page, for
# the next one: 3 % of a row's time at 512². With thresholds of its own a worker keeps what it had at its peak.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}


@dataclass(eq=False)
class WorkerProcess:
    """One worker process and the place that it fills.

    Attributes:
        capacity: jobs that it takes at once; 0 until it is ready.
        jobs: what it has in flight, by line.
        bucket: what its latest jobs had in common.
        state: what it last said of itself; before: what its dead predecessors had counted.
    """

    index: int
    device: str
    process: subprocess.Popen[bytes]
    capacity: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)
    bucket: Any = None
    state: dict[str, Any] = field(default_factory=dict)
    dying: str = ""

    @property
    def room(self) -> int:
        """How many jobs it takes now."""
        if any(job.alone for job in self.jobs.values()):
            return 0
        return self.capacity - len(self.jobs)


@dataclass(frozen=True)
class Event:
    """What a worker said, or that it is gone (``message`` is None)."""

    worker: WorkerProcess
    message: dict[str, Any] | None


class WorkerPool:
    """Worker processes. All methods belong to one thread.

    Args:
        places: a device for each worker.
        events: filled by threads that listen to the workers.
    """

    def __init__(
        self, options: Options, out: Path, places: Sequence[str], events: queue.SimpleQueue[Event | None]
    ) -> None:
        self._options, self._out, self._events = options, out, events
        self.past: list[dict[str, Any]] = []
        self.restarts = 0
        self._stillborn = 0
        self.workers = [self._start(index, device) for index, device in enumerate(places)]

    @property
    def busy(self) -> bool:
        return any(worker.jobs for worker in self.workers)

    def give(self, worker: WorkerProcess, job: Job) -> None:
        """Send a job. One that is dead takes it too: its end is an event of its own."""
        worker.jobs[job.number] = job
        self._say(worker, job.to_dict())

    def hear(self, event: Event) -> dict[str, Any] | None:
        """Take note of what a worker said; the message where it brings a record.

        Raises:
            BackendError, WeightsError, RequestError: the worker cannot open its engine; no other could.
        """
        worker, message = event.worker, event.message or {}
        if "refused" in message:
            raise _refusal(message)
        if "ready" in message:
            worker.capacity, self._stillborn = message["ready"], 0
        if "dying" in message:
            worker.dying = message["dying"]
        if "memory" in message:
            worker.state = {key: value for key, value in message.items() if key != "record"}
        return message if "record" in message else None

    def replace(self, worker: WorkerProcess) -> tuple[list[Job], str]:
        """Start another in the place of one that died; its unfinished jobs, and how it ended.

        Raises:
            BackendError: workers die before they are ready, again and again.
        """
        status = worker.process.wait()
        _hang_up(worker.process)
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        reason = f"the worker process died ({how}{': ' + worker.dying if worker.dying else ''})"
        if not worker.capacity:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                raise BackendError(f"{reason} before it was ready, {_STILLBORN} times in a row")
        self.restarts += 1
        self.past.append(worker.state)
        jobs = list(worker.jobs.values())
        self.workers[worker.index] = self._start(worker.index, worker.device)
        return jobs, reason

    def states(self) -> list[dict[str, Any]]:
        """What all processes, dead ones too, last said of themselves."""
        return [state for state in (*self.past, *(worker.state for worker in self.workers)) if state]

    def dismiss(self, how: str) -> None:
        """Tell everyone to finish (``end``) or to cancel (``stop``); their last words are events."""
        for worker in self.workers:
            self._say(worker, {how: True})

    def kill(self) -> None:
        """End whatever is left."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
            _hang_up(worker.process)

    def _start(self, index: int, device: str) -> WorkerProcess:
        # -P: what lies in the folder that the run is started in, another `intarsia` among it, is not for import.
        command = [sys.executable, "-P", "-m", "intarsia.batch.running.worker"]
        environment = {**_MALLOC, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, _paths()))}
        # A session of its own: Ctrl-C in the terminal is the parent's to handle.
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
            )
        except OSError as exc:
            raise BackendError(f"a worker process cannot be started: {exc.strerror or exc}") from exc
        worker = WorkerProcess(index, device, process)
        try:
            start_thread(self._listen, "intarsia-listen", worker)
        except BackendError:
            process.kill()
            process.wait()
            raise
        self._say(worker, {"options": self._options.for_workers(), "out": str(self._out.absolute()), "device": device})
        return worker

    def _listen(self, worker: WorkerProcess) -> None:
        assert worker.process.stdout is not None
        with worker.process.stdout as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    break  # torn: it was killed while it spoke
                self._events.put(Event(worker, message))
        self._events.put(Event(worker, None))

    def _say(self, worker: WorkerProcess, message: dict[str, Any]) -> None:
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(json.dumps(message).encode() + b"\n")
            worker.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # dead; its listener says so


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    """Close the way to a process that is gone; what was on it has lost its reader."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def _paths() -> list[str]:
    """Where the worker finds this very package, wherever it is run from."""
    package = str(Path(__file__).resolve().parents[3])
    return [package, os.environ.get("PYTHONPATH", "")]


def _refusal(message: dict[str, Any]) -> IntarsiaError:
    """The worker's own error, as far as the classes go that opening an engine raises."""
    text = message["refused"]
    if message["kind"] == "RequestError":
        return RequestError("engine", message=text)
    return {"WeightsError": WeightsError}.get(message["kind"], BackendError)(text)
