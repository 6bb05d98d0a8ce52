"""Whether a server lives and can serve, with real obstacles."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from intarsia.server.engines import process_host
from intarsia.server.engines.job_runner import JobRunner
from intarsia.server.http.keys_editing import add_key
from intarsia.server.routes import health
from intarsia.server.store.store import Store, StoreError
from tests.server.killed import documented_body
from tests.server.running import Running, running


def preloaded(server: Running) -> httpx2.Response:
    """Wait until the models named at the start have been tried."""
    deadline = time.monotonic() + 60
    while not server.services.is_ready and time.monotonic() < deadline:
        time.sleep(0.01)
    return server.client.get("/readyz")


def test_a_server_that_can_serve_is_ready(server):
    response = preloaded(server)
    assert (response.status_code, response.json()) == (200, {"status": "ready", "reasons": []})
    assert server.client.get("/healthz").json() == {"status": "ok"}


def test_models_that_cannot_be_opened_are_named(tmp_path, caplog):
    with running(tmp_path / "data", models=("intarsia-tiny", "none-such")) as server:
        response = preloaded(server)
        (reason,) = response.json()["reasons"]
        assert (response.status_code, response.json()["status"]) == (503, "not ready")
        assert reason.startswith("the model none-such cannot be opened: Model not found: none-such")
        assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [reason]
        assert server.client.get("/healthz").status_code == 200


def test_models_that_are_being_opened_are_waited_for(gate, tmp_path):
    with running(tmp_path / "data", models=("intarsia-tiny",)) as server:
        gate.wait_for(1)
        response = server.client.get("/readyz")
        assert response.json()["reasons"] == ["the models named at the start are being opened"]
        gate.open()
        assert preloaded(server).status_code == 200


def test_a_folder_that_cannot_be_written_is_named_without_its_path(server):
    preloaded(server)
    server.services.files.root = server.services.files.root / "absent"
    response = server.client.get("/readyz")
    (reason,) = response.json()["reasons"]
    assert response.status_code == 503
    assert (
        reason == "the data folder cannot be used: data: the folder absent cannot be written: No such file or directory"
    )


def test_a_database_that_fails_is_named(server, monkeypatch):
    preloaded(server)

    def fail() -> None:
        raise StoreError("the database cannot be written: disk full")

    monkeypatch.setattr(server.services.store, "check", fail)
    response = server.client.get("/readyz")
    assert response.json()["reasons"] == ["the database cannot be used: the database cannot be written: disk full"]


def test_a_database_that_can_only_be_read_is_found_out(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    store.check()
    with store.database.write() as connection:
        connection.exec_driver_sql("PRAGMA query_only=1")  # of every transaction's connection
    assert store.get(1) is None
    with pytest.raises(StoreError, match="the database cannot be written: attempt to write a readonly database"):
        store.check()
    store.close()


def test_an_engine_that_has_ended_is_named(server):
    preloaded(server)
    server.services.host._engine.close()
    assert health.obstacles(server.services) == ["the engine has ended"]


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_database_file_that_is_not_the_one_that_is_open_is_named(server, change):
    preloaded(server)
    path = server.services.store.database.path
    if change == "replaced":
        shutil.copy(path, path.with_name("copy"))
        path.with_name("copy").replace(path)
    else:
        path.unlink()
    response = server.client.get("/readyz")
    problem = f"the file jobs.sqlite3 was {change} while the server had it open: restart the server"
    assert (response.status_code, response.json()["reasons"]) == (503, [f"the database cannot be used: {problem}"])

    # and nothing is accepted that would be lost
    reply = server.client.post("/api/v6/images/inpaint", json=documented_body(1))
    assert (reply.status_code, reply.json()["message"]) == (500, problem)


def test_an_engine_that_takes_no_jobs_is_named(server, monkeypatch):
    preloaded(server)
    monkeypatch.setattr(JobRunner, "capacity", 0)
    assert health.obstacles(server.services) == ["no engine takes jobs: its process has ended, and is started again"]


def test_an_engines_process_that_has_died_is_named_until_there_is_another(tmp_path, monkeypatch):
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError(24, "Too many open files")

    with running(tmp_path / "data", isolate=True) as server:
        assert preloaded(server).status_code == 200
        with monkeypatch.context() as refused:
            refused.setattr(process_host.subprocess, "Popen", refuse)
            os.kill(server.services.host.process_id, signal.SIGKILL)
            reasons = becomes(server, 503)
        assert reasons == ["no engine takes jobs: its process has ended, and is started again"]
        assert becomes(server, 200) == []


def becomes(server: Running, status: int) -> list[str]:
    """The reasons of readiness, once it has that status."""
    deadline = time.monotonic() + 60
    while (response := server.client.get("/readyz")).status_code != status and time.monotonic() < deadline:
        time.sleep(0.02)
    assert response.status_code == status
    return response.json()["reasons"]


def test_a_dispatcher_that_has_ended_is_named(server, monkeypatch):
    preloaded(server)
    monkeypatch.setattr(server.services.dispatcher, "_stopping", True)
    server.services.dispatcher.wake()
    server.services.dispatcher._thread.join(30)
    assert health.obstacles(server.services) == [
        "jobs are not given to the engine: its thread has ended, and the log says why"
    ]


def test_a_fault_in_the_dispatcher_is_logged_and_does_not_end_it(server, monkeypatch, caplog):
    with monkeypatch.context() as broken:
        broken.setattr(server.services.store, "advance", None)  # which cannot be called
        server.services.dispatcher.wake()
        deadline = time.monotonic() + 30
        while "jobs cannot be given to the engine" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "TypeError" in caplog.text
    reply = server.client.post("/api/v6/images/inpaint", json=documented_body(1)).json()
    assert reply["status"] == "success"


def test_a_store_that_fails_as_the_server_ends_does_not_hinder_it(tmp_path, monkeypatch, caplog):
    """The job is running in the store, and so it is run again at the next start."""

    def fail(store: Store, name: str, ends: list[Any], most: int) -> Any:
        if ends:
            raise StoreError("the database cannot be written: disk full")
        return advance(store, name, ends, most)

    advance = Store.advance
    body = documented_body(1, instant_response=True)
    with monkeypatch.context() as broken:
        with running(tmp_path / "data") as server:
            broken.setattr(Store, "advance", fail)
            job_id = server.client.post("/api/v6/images/inpaint", json=body).json()["id"]
            deadline = time.monotonic() + 30
            while "the job store fails" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.02)
        assert "the ends of 1 jobs cannot be stored, which are run again" in caplog.text
    with running(tmp_path / "data") as server:
        deadline = time.monotonic() + 30
        while server.services.store.get(job_id).state != "done" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.services.store.get(job_id).state == "done"


def test_who_has_no_key_learns_no_reasons(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.txt", "ann")
    with running(tmp_path / "data", keys=tmp_path / "keys.txt") as server:
        server.services.files.root = server.services.files.root / "absent"
        response = server.client.get("/readyz")
        assert (response.status_code, response.json()) == (503, {"status": "not ready"})
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/metrics").status_code == 401

        allowed = {"Authorization": f"Bearer {key}"}
        assert "the data folder cannot be used" in server.client.get("/readyz", headers=allowed).text
        assert server.client.get("/metrics", headers=allowed).status_code == 200
