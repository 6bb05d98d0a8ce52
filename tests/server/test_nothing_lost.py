"""A job that was accepted ends, once, with the same bytes, however often the server is killed."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from intarsia.server.settings import EngineSettings
from tests.server.killed import PatientClient, ServerProcess, documented_body
from tests.server.running import NULL, Running, running

OPTIONS = ("--wait", "0", "--queue", "1000")
SLOW_STEPS = {"INTARSIA_NULL_STEP_SECONDS": "0.02"}


def _submit(server: ServerProcess | Running, numbers: range, ids: dict[int, int]) -> None:
    with PatientClient(server) as client:
        for number in numbers:
            reply = client.post("/api/v6/images/inpaint", documented_body(number), key=f"number-{number}")
            assert reply["status"] in ("processing", "success"), reply
            ids[number] = reply["id"]


def _outputs(server: ServerProcess | Running, ids: dict[int, int]) -> dict[int, list[bytes]]:
    """The images of every job, as soon as it is done."""
    outputs = {}
    with PatientClient(server) as client:
        for number, job_id in ids.items():
            while (reply := client.post("/api/v6/images/fetch", {"request_id": job_id}))["status"] == "processing":
                threading.Event().wait(0.05)
            assert reply["status"] == "success", reply
            outputs[number] = [client.image(url) for url in reply["output"]]
    return outputs


def _uninterrupted(data: Path, jobs: int, engine: EngineSettings) -> dict[int, list[bytes]]:
    """The images of the same jobs, of a server in this process."""
    ids: dict[int, int] = {}
    with running(data, engine=engine, wait=0.0, queue=1000) as server:
        _submit(server, range(jobs), ids)
        return _outputs(server, ids)


def _killed_at_random(
    server: ServerProcess, database: Path, jobs: int, kills: int, pause: Callable[[], float]
) -> dict[int, list[bytes]]:
    """Submit from two clients while the server is killed and started again, then collect all images."""
    ids: dict[int, int] = {}
    half = jobs // 2
    clients = [
        threading.Thread(target=_submit, args=(server, numbers, ids)) for numbers in (range(half), range(half, jobs))
    ]
    for client in clients:
        client.start()

    for _ in range(kills):
        _wait_for_a_running_job(database)
        threading.Event().wait(pause())
        server.kill()
        server.start()

    for client in clients:
        client.join()
    assert sorted(ids) == list(range(jobs))
    assert len(set(ids.values())) == jobs
    return _outputs(server, ids)


def _wait_for_a_running_job(database: Path) -> None:
    """So that each kill meets one: an engine takes its time to open."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        while not connection.execute("SELECT 1 FROM jobs WHERE state = 'running'").fetchone():
            threading.Event().wait(0.02)


def _check(tmp_path: Path, jobs: int, kills: int, engine: EngineSettings = NULL) -> None:
    chance, database = random.Random(7), tmp_path / "killed" / "jobs.sqlite3"
    options = (*OPTIONS, "--backend", engine.backend)
    with ServerProcess(tmp_path / "killed", *options, environment=SLOW_STEPS) as server:
        outputs = _killed_at_random(server, database, jobs, kills, lambda: chance.uniform(0.0, 0.3))
        assert server.stop() == 0

    with contextlib.closing(sqlite3.connect(database)) as connection:
        states = dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
        attempts = connection.execute("SELECT max(attempts) FROM jobs").fetchone()[0]
    assert states == {"done": jobs}
    assert attempts > 1  # some were running when the server was killed
    assert outputs == _uninterrupted(tmp_path / "whole", jobs, engine)


def test_killed_servers_lose_no_job_and_run_none_twice(tmp_path):
    _check(tmp_path, jobs=30, kills=2)


@pytest.mark.slow
def test_five_hundred_jobs_survive_twenty_kills(tmp_path):
    _check(tmp_path, jobs=500, kills=20)


@pytest.mark.slow
def test_jobs_of_the_packaged_model_survive_three_kills_with_the_same_bits(tmp_path: Path) -> None:
    if find_spec("onnxruntime") is None and find_spec("torch") is None:
        pytest.skip("the packaged model needs a backend: pip install 'intarsia[cpu]'")
    _check(tmp_path, jobs=20, kills=3, engine=EngineSettings())
