"""Whether a server lives and can serve, with real obstacles."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx2
import pytest

from intarsia.server.http.keys_editing import add_key
from intarsia.server.routes import health
from intarsia.server.store.store import Store, StoreError
from tests.server.running import Running, running


def preloaded(server: Running) -> httpx2.Response:
    """Wait until the models named at the start have been tried."""
    for thread in threading.enumerate():
        if thread.name == "intarsia-preload":
            thread.join(60)
    return server.client.get("/readyz")


def test_a_server_that_can_serve_is_ready(server):
    response = preloaded(server)
    assert (response.status_code, response.json()) == (200, {"status": "ready", "reasons": []})
    assert server.client.get("/healthz").json() == {"status": "ok"}


def test_models_that_cannot_be_opened_are_named(tmp_path):
    with running(tmp_path / "data", models=("intarsia-tiny", "none-such")) as server:
        response = preloaded(server)
        (reason,) = response.json()["reasons"]
        assert (response.status_code, response.json()["status"]) == (503, "not ready")
        assert reason.startswith("the model none-such cannot be opened: Model not found: none-such")
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
    with store.database.read() as connection:
        connection.exec_driver_sql("PRAGMA query_only=1")  # of the pool's only connection
    assert store.get(1) is None
    with pytest.raises(StoreError, match="the database cannot be written: attempt to write a readonly database"):
        store.check()
    store.close()


def test_an_engine_that_has_ended_is_named(server):
    preloaded(server)
    server.services.host._engine.close()
    assert health.obstacles(server.services) == ["the engine has ended"]


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
