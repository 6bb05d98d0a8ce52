"""Engines' processes that are started before there is anything that could use them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

import uvicorn
from typer.testing import CliRunner

from intarsia.cli import app
from intarsia.server import serving
from intarsia.server.admission import RETRY_AFTER, Admission
from intarsia.server.engines import process_host, process_start
from intarsia.server.engines.hosts import open_host
from intarsia.server.engines.process_start import start_process, started_ahead
from intarsia.server.http.protocol import LimitedProtocol
from intarsia.server.settings import EngineSettings, ServeSettings
from intarsia.server.store.files import LocalFiles
from intarsia.threads import start_thread
from tests.server.test_process_host import Heard


def test_processes_that_nobody_uses_are_ended():
    with started_ahead(2) as processes:
        unused, used = processes
        processes.remove(used)
    assert unused.poll() is not None
    assert unused.stdin.closed
    assert unused.stdout.closed

    assert used.poll() is None
    used.communicate()  # its input ends, as where the server is gone
    assert used.returncode == 0


def test_a_process_that_cannot_be_started_ahead_is_left_to_its_host(monkeypatch):
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with started_ahead(2) as processes:
        assert processes == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_its_files_are_nobody_elses():
    with started_ahead(1) as (process,):
        status = Path(f"/proc/{process.pid}/status").read_text()
    assert "Umask:\t0077\n" in status


def test_hosts_use_them_and_start_what_is_missing(tmp_path):
    engine = EngineSettings(backend="null", devices=("cpu", "cpu"))
    settings, heard = ServeSettings(data=tmp_path, engine=engine), Heard()
    started = [start_process()]
    ahead = started[0].pid

    host = open_host(settings, LocalFiles(tmp_path), heard, started=started)
    heard.wait(lambda: all(one.capacity > 0 for one in host._hosts))
    assert started == []
    assert [one.process_id == ahead for one in host._hosts] == [True, False]
    host.close()


def test_a_host_that_is_closed_at_once_ends_the_process_that_it_was_given(tmp_path, monkeypatch):
    """Before its thread has come to it."""
    closed = threading.Event()

    def start_late(run: Callable[[], None], name: str) -> threading.Thread:
        def late() -> None:
            closed.wait()
            run()

        return start_thread(late, name)

    monkeypatch.setattr(process_host, "start_thread", start_late)
    process = start_process()
    settings = ServeSettings(data=tmp_path, engine=EngineSettings(backend="null"))
    host = process_host.ProcessHost(settings, "cpu", Heard(), started=process)
    monkeypatch.setattr(host, "_closing", closed)
    host.close()
    assert process.poll() is not None
    assert process.stdin.closed
    assert process.stdout.closed


def test_a_server_that_does_not_start_leaves_no_process(tmp_path, monkeypatch):
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        processes.append(start_process())
        return processes[-1]

    monkeypatch.setattr(process_start, "start_process", start)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = ["--data", str(tmp_path), "--port", str(port), "--device", "cpu,cpu"]
        done = CliRunner().invoke(app, ["serve", "--null", *options])
    assert "Address already in use" in str(done.exception)
    assert len(processes) == 2
    assert None not in [process.poll() for process in processes]


def test_what_is_there_at_the_start_is_left_out_of_collections_before_there_can_be_one(monkeypatch):
    """The command switches the collector on as the server is announced, and it would look through all of it at once."""
    done = []

    async def listen(server: uvicorn.Server, sockets: object = None) -> None:
        done.append("listens")

    monkeypatch.setattr(uvicorn.Server, "startup", listen)
    monkeypatch.setattr(serving.gc, "freeze", lambda: done.append("left out"))
    monkeypatch.setattr(serving.gc, "collect", lambda: done.append("collected"))
    services: Any = SimpleNamespace(on_failure=None, intake=SimpleNamespace(admission=Admission()))
    server = serving._Server(uvicorn.Config(app="none"), services, lambda: done.append("announced"))
    asyncio.run(server.startup())
    assert done == ["listens", "left out", "announced"]


def test_the_servers_connections_that_ask_for_something_count_as_clients():
    async def counted(ages: list[float]) -> int:
        """Clients that the server counts, with connections whose last requests are so many seconds old."""
        admission = Admission()
        services: Any = SimpleNamespace(on_failure=None, intake=SimpleNamespace(admission=admission))
        server = serving._Server(uvicorn.Config(app="none"), services, lambda: None)
        for age in ages:
            connection = LimitedProtocol.__new__(LimitedProtocol)
            connection._asked = asyncio.get_running_loop().time() - age
            server.server_state.connections.add(connection)
        return admission.connected()

    assert asyncio.run(counted([])) == 0
    assert asyncio.run(counted([0, RETRY_AFTER - 1, RETRY_AFTER + 1, float("inf")])) == 2
