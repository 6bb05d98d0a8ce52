"""Engine hosts in processes of their own, one for each device, and the choice between several hosts."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import IO

from intarsia.engine.prompt_tags import lora_tags
from intarsia.lru import Lru
from intarsia.server.engines import host_messages as messages
from intarsia.server.engines.host import Listener
from intarsia.server.engines.process_start import end_process, start_process
from intarsia.server.settings import ServeSettings
from intarsia.server.store.jobs import Job, Stopped
from intarsia.threads import start_thread

__all__ = ["ManyHosts", "ProcessHost"]

log = logging.getLogger("intarsia")

# Seconds before a process that has ended is started again; longer each time it ends without having run a job.
_WAITS = (0.0, 1.0, 5.0, 30.0)

# Models that a host is taken to have open still.
_OPEN = 2


class ProcessHost:
    """An :class:`EngineHost` whose engine runs in another process, which is started again whenever it ends.

    Its jobs are reported as lost then. One whose engine cannot be opened at all takes no jobs; :attr:`problem` says
    why.

    Args:
        settings: of the server, whose file store both processes use.
        started: its first process, where that was started ahead.
    """

    def __init__(
        self,
        settings: ServeSettings,
        device: str,
        listener: Listener,
        *,
        started: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.device = device
        self.problem = ""
        self._start_message = messages.Start(
            settings=dataclasses.asdict(settings.engine),
            device=device,
            data=str(settings.data),
            files=settings.files,
        )
        self._listener = listener
        self._lock = threading.Lock()
        self._started = started
        self._process: subprocess.Popen[bytes] | None = None
        self._capacity = 0
        self._jobs: set[int] = set()
        self._statistics: dict[str, float] = {}
        self._problems: dict[str, str] | None = None
        self._answered = threading.Condition(self._lock)
        self._closing = threading.Event()
        self._thread = start_thread(self._keep_running, f"intarsia-engine-{device}")

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def in_flight(self) -> int:
        """Jobs that it has."""
        return len(self._jobs)

    @property
    def process_id(self) -> int | None:
        """The engine's process; None between two of them."""
        return self._process.pid if self._process is not None else None

    @property
    def statistics(self) -> dict[str, float]:
        return dict(self._statistics)

    def open_models(self, models: Sequence[str]) -> dict[str, str]:
        with self._answered:
            self._answered.wait_for(lambda: bool(self._capacity or self.problem or self._closing.is_set()))
            self._problems = None
        if not self._send(messages.OpenModels(list(models))):
            return dict.fromkeys(models, self.problem or "the engine's process has ended")
        with self._answered:
            self._answered.wait_for(lambda: self._problems is not None or not self._capacity)
            problems: dict[str, str] | None = self._problems
        if problems is None:
            return dict.fromkeys(models, self.problem or "the engine's process has ended")
        return problems

    def start(self, job: Job) -> None:
        with self._lock:
            self._jobs.add(job.id)
        if not self._send(messages.StartJob.of(job)):
            self._lost(job.id)

    def cancel(self, job_id: int) -> None:
        if job_id in self._jobs:
            self._send(messages.Cancel(job_id))

    def close(self) -> None:
        self._closing.set()
        with self._answered:
            process = self._process
            self._answered.notify_all()
        if process is not None:
            process.kill()
        self._thread.join()
        if self._started is not None:  # it was closed before its thread came to its first process
            end_process(self._started)

    def _keep_running(self) -> None:
        """The host's thread: one process after another."""
        failures = 0
        while not self._closing.wait(_WAITS[min(failures, len(_WAITS) - 1)]):
            try:
                ended_jobs = self._run_process()
            except Exception:  # a fault of ours, or a message that means nothing: the device must not stay unused
                log.exception("the host of the engine on %s failed", self.device)
                ended_jobs = 0
                self._abandon_process()
            if self.problem:
                log.error("the engine on %s cannot be opened: %s", self.device, self.problem)
                return
            failures = 0 if ended_jobs else failures + 1
            if not self._closing.is_set():
                log.error("the engine's process on %s has ended; another one is started", self.device)

    def _run_process(self) -> int:
        """One process from its start to its end; returns how many jobs ended in it."""
        try:
            process = self._started or start_process()
        except OSError as exc:  # no descriptors, processes or memory are left: tried again, as after any end
            log.error("the engine's process on %s cannot be started: %s", self.device, exc.strerror or exc)
            return 0
        self._started = None
        with self._lock:
            self._process = process
        if self._closing.is_set():
            process.kill()
        self._send(self._start_message)

        assert process.stdout is not None
        ended = sum(self._heard(messages.decode(line)) for line in _whole_lines(process.stdout))
        self._close_process(process)
        return ended

    def _abandon_process(self) -> None:
        """End a process that is not listened to any more."""
        process = self._process
        if process is None:
            return
        process.kill()
        try:
            self._close_process(process)
        except Exception:
            log.exception("the engine's process on %s was not closed in good order", self.device)

    def _close_process(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        with self._answered:
            self._process, self._capacity = None, 0
            jobs = list(self._jobs)
            self._answered.notify_all()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        for job_id in jobs:
            self._lost(job_id)

    def _heard(self, message: messages.Message) -> bool:
        """Act on a message; True where a job has ended."""
        if isinstance(message, messages.Stepped):
            self._listener.progressed(message.job_id, message.progress)
        elif isinstance(message, messages.Previewed):
            self._listener.previewed(message.job_id, message.preview)
        elif isinstance(message, messages.JobEnded):
            with self._lock:
                self._jobs.discard(message.job_id)
            self._listener.ended(message.job_id, message.ended)
            return True
        elif isinstance(message, messages.Statistics):
            self._statistics = message.values
        else:
            self._answer(message)
        return False

    def _answer(self, message: messages.Message) -> None:
        with self._answered:
            if isinstance(message, messages.Opened):
                self._capacity = message.capacity
            elif isinstance(message, messages.Refused):
                self.problem = message.error
            elif isinstance(message, messages.ModelsOpened):
                self._problems = message.problems
            self._answered.notify_all()
        self._listener.has_room()

    def _send(self, message: messages.Message) -> bool:
        """Whether the message went into the pipe of a process."""
        with self._lock:
            if self._process is None or self._process.stdin is None:
                return False
            try:
                self._process.stdin.write(messages.encode(message))
                self._process.stdin.flush()
            except (BrokenPipeError, ValueError):  # it has ended, or its pipe is closed
                return False
            return True

    def _lost(self, job_id: int) -> None:
        with self._lock:
            if job_id not in self._jobs:
                return
            self._jobs.discard(job_id)
        self._listener.ended(job_id, Stopped(lost=True))


class ManyHosts:
    """An :class:`EngineHost` over several: a job goes to one that has its model open, else to the least busy one."""

    def __init__(self, hosts: Sequence[ProcessHost]) -> None:
        self._hosts = hosts
        self._lock = threading.Lock()
        self._open: list[Lru[str, bool]] = [Lru(_OPEN) for _ in hosts]

    @property
    def capacity(self) -> int:
        return sum(host.capacity for host in self._hosts)

    @property
    def problem(self) -> str:
        """Why none of them can run anything; empty where one can."""
        problems = [host.problem for host in self._hosts]
        return problems[0] if all(problems) else ""

    @property
    def statistics(self) -> dict[str, float]:
        total: dict[str, float] = {}
        for host in self._hosts:
            for name, value in host.statistics.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def open_models(self, models: Sequence[str]) -> dict[str, str]:
        problems: dict[str, str] = {}
        for host in self._hosts:
            problems |= host.open_models(models)
        return problems

    def start(self, job: Job) -> None:
        model = model_key(job)
        with self._lock:
            number = self._chosen(model)
            self._open[number].put(model, True)
        self._hosts[number].start(job)

    def cancel(self, job_id: int) -> None:
        for host in self._hosts:
            host.cancel(job_id)

    def close(self) -> None:
        for host in self._hosts:
            host.close()

    def _chosen(self, model: str) -> int:
        """Of the hosts that have room, one with the model open where there is one, the least busy of them."""

        def rank(number: int) -> tuple[bool, bool, float]:
            host = self._hosts[number]
            is_full = host.in_flight >= host.capacity
            is_closed = self._open[number].get(model) is None
            return is_full, is_closed, host.in_flight / max(host.capacity, 1)

        return min(range(len(self._hosts)), key=rank)


def model_key(job: Job) -> str:
    """What decides whether two jobs run on the same opened model: the model and what is put into it."""
    request = job.request
    parts = [request.get(name) for name in ("model", "vae", "loras")]
    # where the prompt is read as plain text its tags name no LoRA: such a job may find another engine, no wrong model
    in_prompt = lora_tags(request.get("prompt") or "")
    return repr([*parts, in_prompt])


def _whole_lines(pipe: IO[bytes]) -> Iterator[bytes]:
    """Lines up to the end; one that was cut off by the writer's death is none."""
    for line in pipe:
        if line.endswith(b"\n"):
            yield line
