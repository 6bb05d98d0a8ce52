"""What keeps a server from starting is one line that names it, and an exit code."""

from __future__ import annotations

import socket
import sqlite3
import time
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from typer.testing import CliRunner

from intarsia.cli import app
from intarsia.errors import IntarsiaError
from tests.server.killed import PatientClient, ServerProcess, documented_body
from tests.server.running import running


def _start(*options: str | Path) -> tuple[int, str]:
    """Exit code and error output of a server that does not start, of a command in this process."""
    done = CliRunner().invoke(app, ["serve", "--null", "--port", "0", *map(str, options)])
    assert isinstance(done.exception, IntarsiaError), done.exception
    return done.exception.exit_code, str(done.exception)


def _refused(tmp_path: Path, *options: str | Path) -> str:
    code, sentence = _start("--data", tmp_path / "data", *options)
    assert code == 2
    assert "\n" not in sentence
    return sentence


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in _refused(tmp_path, "--port", str(port))


def test_an_address_that_others_reach_needs_keys(tmp_path):
    sentence = _refused(tmp_path, "--host", "0.0.0.0")
    assert "0.0.0.0 can be reached from other machines, which needs keys" in sentence


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--public-url", "images.example.org", "public-url must be an http or https address"),
        ("--cors", "*", "cors must be an http or https address"),
        ("--database", "mysql://root@localhost/jobs", "its scheme is 'mysql'"),
        ("--keep", "a week", "keep must be a time such as 90s"),
        ("--disk-limit", "plenty", "disk-limit must be a size such as 500MB"),
        ("--wait", "-1", "wait must be between 0 and 600 seconds"),
        ("--queue", "0", "queue must be between 1 and"),
        ("--keys", "/nowhere/keys.txt", "/nowhere/keys.txt"),
        ("--certificate", "/nowhere/cert.pem", "/nowhere/cert.pem"),
        ("--weights", "/nowhere/weights.toml", "/nowhere/weights.toml"),
    ],
)
def test_a_setting_that_means_nothing_is_named(tmp_path, option, value, named):
    code, sentence = _start("--data", tmp_path / "data", option, value)
    assert code in (2, 3)
    assert named in sentence
    assert "\n" not in sentence


def test_a_data_folder_of_a_newer_version_is_left_alone(tmp_path):
    data = tmp_path / "data"
    with running(data):
        pass
    with sqlite3.connect(data / "jobs.sqlite3") as database:
        database.execute("UPDATE schema_version SET version = 999")
    database.close()

    assert "version 999, made by a newer intarsia" in _refused(tmp_path)


def test_a_data_folder_has_one_server_at_a_time(tmp_path):
    with running(tmp_path / "data"):
        assert "is in use by a server" in _refused(tmp_path)
    with running(tmp_path / "data") as server:  # the lock has gone with the first one
        assert server.client.get("/healthz").status_code == 200


def test_a_model_that_is_missing_is_said_and_the_rest_runs(tmp_path):
    options = ("--null", "--model", "no-such-model", "--model", "intarsia-tiny")
    with ServerProcess(tmp_path / "data", *options) as server, PatientClient(server) as client:
        assert client.post("/api/v6/images/inpaint", documented_body(1))["status"] == "success"
        deadline = time.monotonic() + 30
        while "no-such-model" not in (ready := client.get("/readyz")).text and time.monotonic() < deadline:
            time.sleep(0.05)
    assert ready.status_code == 503
    assert "Model not found: no-such-model" in ready.text


def test_help_names_every_option_and_starts_nothing(tmp_path):
    done = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    for option in ("--host", "--keys", "--public-url", "--database", "--keep", "--null", "--ray"):
        assert option in done.stdout
