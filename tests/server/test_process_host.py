"""Engines in processes of their own: jobs go where their model is open, and survive the death of a process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn")

import dataclasses

from intarsia.engine.result import Progress
from intarsia.images.access import Access
from intarsia.registry.registry import Registry
from intarsia.server.acceptance import Acceptance
from intarsia.server.engines import host_messages as messages
from intarsia.server.engines import process_host
from intarsia.server.engines.process_host import ManyHosts, ProcessHost
from intarsia.server.settings import EngineSettings, ServeSettings
from intarsia.server.store.files import LocalFiles
from intarsia.server.store.jobs import Done, Ended, Failed, Job, Stopped
from intarsia.server.store.store import Store
from tests.server.killed import documented_body

ENGINE = EngineSettings(backend="null", devices=("cpu", "cpu"))


class Heard:
    """Keeps what a host says."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.ends: dict[int, Ended] = {}
        self.steps: dict[int, Progress] = {}
        self.rooms = 0

    def progressed(self, job_id: int, progress: Progress) -> None:
        with self.changed:
            self.steps[job_id] = progress
            self.changed.notify_all()

    def ended(self, job_id: int, ended: Ended) -> None:
        with self.changed:
            self.ends[job_id] = ended
            self.changed.notify_all()

    def has_room(self) -> None:
        with self.changed:
            self.rooms += 1
            self.changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 60)


@dataclasses.dataclass(frozen=True)
class Opened:
    """A host whose process has an engine, what it says, and a server's acceptance of requests for it."""

    host: ProcessHost
    heard: Heard
    files: LocalFiles
    acceptance: Acceptance

    def accept(self, **fields: Any) -> Job:
        """A job that can be started."""
        return self.acceptance.accept(self.acceptance.documented(documented_body(1, **fields), None))

    def end(self, job: Job) -> Ended:
        """How a job ends, once it has."""
        self.heard.wait(lambda: job.id in self.heard.ends)
        return self.heard.ends.pop(job.id)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """One for all tests, since a process takes its time to start; each evaluation takes 50 ms."""
    data, heard = tmp_path_factory.mktemp("host"), Heard()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("INTARSIA_NULL_STEP_SECONDS", "0.05")
        host = ProcessHost(ServeSettings(data=data, engine=ENGINE), "cpu", heard)
        heard.wait(lambda: host.capacity > 0)
        files, store = LocalFiles(data), Store(f"sqlite:///{data / 'jobs.sqlite3'}")
        acceptance = Acceptance(
            registry=Registry(),
            files=files,
            store=store,
            queue=100,
            share=100,
            access=Access(allow_paths=False),
        )
        yield Opened(host=host, heard=heard, files=files, acceptance=acceptance)

        host.close()
        store.close()


def test_a_job_runs_in_the_other_process_and_its_file_is_there(opened):
    job = opened.accept()
    opened.host.start(job)
    assert isinstance(opened.end(job), Done)
    assert opened.files.output(job.files[0]).startswith(b"\x89PNG")
    assert opened.heard.steps[job.id] == Progress(job.lane_rows, job.lane_rows)


def test_jobs_of_a_process_that_dies_are_lost_and_another_process_takes_them(opened):
    job = opened.accept(steps=20)
    killed = opened.host.process_id
    opened.host.start(job)
    os.kill(killed, signal.SIGKILL)
    assert opened.end(job) == Stopped(lost=True)

    opened.heard.wait(lambda: opened.host.capacity > 0)
    assert opened.host.process_id != killed
    opened.host.start(job)
    assert isinstance(opened.end(job), Done)


def test_a_fault_of_the_host_ends_the_process_and_another_one_takes_the_jobs(opened, monkeypatch, caplog):
    def fail(job_id: int, progress: Progress) -> None:
        raise RuntimeError("a listener that raises, as none should")

    abandoned, job = opened.host.process_id, opened.accept(steps=20)
    with monkeypatch.context() as broken, caplog.at_level("ERROR", "intarsia"):
        broken.setattr(opened.heard, "progressed", fail)
        opened.host.start(job)
        assert opened.end(job) == Stopped(lost=True)
    assert "the host of the engine on cpu failed" in caplog.text

    opened.heard.wait(lambda: opened.host.capacity > 0)
    assert opened.host.process_id != abandoned
    with pytest.raises(ProcessLookupError):
        os.kill(abandoned, 0)
    opened.host.start(job)
    assert isinstance(opened.end(job), Done)


def test_an_engine_that_cannot_be_opened_says_why_and_is_not_tried_again(tmp_path):
    heard = Heard()
    host = ProcessHost(ServeSettings(data=tmp_path, engine=ENGINE), "cuda:7", heard)
    heard.wait(lambda: host.problem != "")
    assert "null backend" in host.problem
    assert host.capacity == 0
    assert host.open_models(["intarsia-tiny"]) == {"intarsia-tiny": host.problem}
    host.close()


def test_a_cancelled_job_ends_as_cancelled(opened):
    job = opened.accept(steps=100)
    opened.host.start(job)
    opened.heard.wait(lambda: job.id in opened.heard.steps)
    opened.host.cancel(job.id)
    assert opened.end(job) == Stopped(lost=False)
    assert opened.heard.steps[job.id].step < job.lane_rows


def test_models_are_opened_before_they_are_asked_for(opened):
    problems = opened.host.open_models(["intarsia-tiny", "nothing-of-that-name"])
    assert list(problems) == ["nothing-of-that-name"]
    assert "Model not found" in problems["nothing-of-that-name"]


class FakeHost:
    """Has room for two jobs, and keeps them."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.capacity = 2
        self.problem = ""
        self.statistics = {"evaluations": 3.0}

    @property
    def in_flight(self) -> int:
        return len(self.jobs)

    def start(self, job: Job) -> None:
        self.jobs.append(job)


def _job(number: int, model: str) -> Job:
    return Job(id=number, endpoint="community", request={"model": model})


def test_loras_in_a_prompt_are_part_of_what_is_open():
    hosts = [FakeHost(), FakeHost()]
    many = ManyHosts(hosts)  # type: ignore[arg-type]
    prompts = ["a tree <lora:ink:0.8>", "a tree", "a lake <lora:ink:0.8>", "a lake"]
    for number, prompt in enumerate(prompts):
        request = {"model": "x", "prompt": prompt}
        many.start(Job(id=number, endpoint="jobs", request=request))
    assert [[job.id for job in host.jobs] for host in hosts] == [[0, 2], [1, 3]]


def test_jobs_go_where_their_model_is_open_and_else_to_the_least_busy():
    hosts = [FakeHost(), FakeHost()]
    many = ManyHosts(hosts)  # type: ignore[arg-type]
    for number, model in enumerate(["x", "y", "x", "y"]):
        many.start(_job(number, model))
    assert [job.request["model"] for job in hosts[0].jobs] == ["x", "x"]
    assert [job.request["model"] for job in hosts[1].jobs] == ["y", "y"]

    hosts[1].jobs.clear()
    many.start(_job(9, "x"))  # the host that has x open is full
    assert [job.id for job in hosts[1].jobs] == [9]
    assert many.capacity == 4
    assert many.statistics == {"evaluations": 6.0}


def test_a_lora_more_is_another_model():
    hosts = [FakeHost(), FakeHost()]
    many = ManyHosts(hosts)  # type: ignore[arg-type]
    many.start(_job(1, "x"))
    many.start(dataclasses.replace(_job(2, "x"), request={"model": "x", "loras": [{"id": "ink", "strength": 1.0}]}))
    assert (hosts[0].in_flight, hosts[1].in_flight) == (1, 1)


@pytest.mark.parametrize("ended", [Done({"seconds": 1.5}), Failed("no memory", "memory"), Stopped(lost=False)])
def test_ends_arrive_as_they_were_sent(ended):
    message = messages.decode(messages.encode(messages.JobEnded.of(7, ended)))
    assert message.ended == ended


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path, monkeypatch):
    heard = Heard()
    real, refused = subprocess.Popen, iter([True])

    def start(*arguments: Any, **options: Any) -> Any:
        if next(refused, False):
            raise OSError(24, "Too many open files")
        return real(*arguments, **options)

    monkeypatch.setattr(process_host.subprocess, "Popen", start)
    host = ProcessHost(ServeSettings(data=tmp_path, engine=ENGINE), "cpu", heard)
    heard.wait(lambda: host.capacity > 0)
    host.close()
