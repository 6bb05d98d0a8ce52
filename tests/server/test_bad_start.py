"""What keeps a server from starting is one line that names it, and an exit code."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from typer.testing import CliRunner

from intarsia.cli import app
from intarsia.errors import IntarsiaError, RequestError
from intarsia.server.serving import addresses, listen
from intarsia.server.settings import ServeSettings
from tests.server.killed import documented_body
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
        ("--public-url", "https://user:hidden-word@example.org", "public-url must be an http or https address"),
        ("--public-url", "https://example.org:99999", "public-url must be an http or https address"),
        ("--public-url", "https://[example.org", "public-url must be an http or https address"),
        ("--public-url", "https://example.org/?a=b", "without user, password and query"),
        ("--cors", "*", "cors must be an origin such as https://app.example.org"),
        ("--cors", "https://app.example.org/page", "cors must be an origin"),
        ("--cors", "https://user@app.example.org", "cors must be an origin"),
        ("--allow-host", "*", "allow-host must be a host name such as images.example.org"),
        ("--allow-host", "images.example.org:8765", "allow-host must be a host name"),
        ("--allow-host", "https://images.example.org", "allow-host must be a host name"),
        ("--database", "mysql://root@localhost/jobs", "its scheme is 'mysql'"),
        ("--keep", "a week", "keep must be a time such as 90s"),
        ("--keep", "0s", "keep must be between 60s and 36500d"),
        ("--keep", "9" * 400 + "w", "keep must be between 60s and 36500d"),
        ("--disk-limit", "plenty", "disk-limit must be a size such as 500MB"),
        ("--disk-limit", "0", "disk-limit must be at least 1MB"),
        ("--disk-limit", "9" * 400, "disk-limit must be a size such as 500MB"),
        ("--uploads", "-1", "uploads must be between 1 and"),
        ("--upload-bytes", "some", "upload-bytes must be a size such as 500MB"),
        ("--replicas", "4", "--ray is required with"),
        ("--ray", "--certificate=cert.pem", "certificate is not used with --ray"),
        ("--wait", "-1", "wait must be between 0 and 600 seconds"),
        ("--queue", "0", "queue must be between 1 and"),
        ("--keys", "/nowhere/keys.txt", "/nowhere/keys.txt"),
        ("--certificate", "/nowhere/cert.pem", "/nowhere/cert.pem"),
        ("--weights", "/nowhere/weights.toml", "/nowhere/weights.toml"),
        ("--database", "sqlite:////tmp/jobs.sqlite3?mode=ro", "has no options here, such as mode"),
        ("--files", "memory://jobs", "files: what is in memory is gone with its process"),
        ("--files", "no-such-scheme://jobs", "files: no-such-scheme://jobs cannot be opened: Protocol not known"),
        ("--files", "ftp://nowhere.invalid/jobs", "files: ftp://nowhere.invalid/jobs cannot be opened:"),
    ],
)
def test_a_setting_that_means_nothing_is_named(tmp_path, option, value, named):
    code, sentence = _start("--data", tmp_path / "data", option, value)
    assert code in (2, 3)
    assert named in sentence
    assert "\n" not in sentence
    assert "hidden-word" not in sentence


@dataclass(frozen=True)
class Pem:
    """PEM files: a certificate, its private key, that with a pass phrase, and another private key."""

    certificate: Path
    key: Path
    locked_key: Path
    other_key: Path


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Pem:
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl is not installed, which makes the certificate")
    folder = tmp_path_factory.mktemp("pem")
    files = Pem(*(folder / name for name in ("certificate", "key", "locked_key", "other_key")))
    made = f"req -x509 -newkey rsa:2048 -nodes -keyout {files.key} -out {files.certificate} -days 2 -subj /CN=a"
    locked = f"rsa -aes128 -passout pass:hidden-word -in {files.key} -out {files.locked_key}"
    for arguments in (made, locked, f"genrsa -out {files.other_key} 2048"):
        subprocess.run(["openssl", *arguments.split()], check=True, capture_output=True)
    return files


def test_a_certificate_that_cannot_be_used_is_one_line_that_says_why(tmp_path, pem, capfd):
    empty = tmp_path / "empty.pem"
    empty.touch()
    needed = "a PEM file with the certificate is needed, and the private key in it or in --certificate-key"
    refused = {
        (pem.certificate, None): needed,
        (pem.certificate, empty): needed,
        (pem.certificate, pem.certificate): needed,
        (pem.key, None): needed,
        (empty, pem.key): needed,
        (pem.certificate, pem.other_key): "its private key belongs to another certificate",
        (pem.certificate, pem.locked_key): "its private key has a pass phrase",
    }
    for (certificate, key), problem in refused.items():
        options = ["--certificate", certificate, *(["--certificate-key", key] if key else [])]
        sentence = _refused(tmp_path, *options)
        assert sentence.startswith(f"certificate {certificate} cannot be used: {problem}")
    assert "pass phrase" not in capfd.readouterr().err  # OpenSSL has asked nobody for it

    missing = _refused(tmp_path, "--certificate", pem.certificate, "--certificate-key", "/nowhere/key.pem")
    assert missing == "certificate-key /nowhere/key.pem cannot be used: No such file or directory"


@pytest.mark.parametrize("content", ["", "\n# ann sha256:0\n\n"])
def test_a_keys_file_without_a_key_is_refused(tmp_path, content):
    keys = tmp_path / "keys.txt"
    keys.write_text(content)
    keys.chmod(0o600)
    assert f"keys file {keys} has no key" in _refused(tmp_path, "--keys", keys)


@pytest.mark.parametrize(
    ("public_url", "lines"),
    [
        ("", ["serves on http://127.0.0.1:"]),
        ("https://images.example.org/", ["serves on https://images.example.org", "  listens on           http://127."]),
    ],
)
def test_the_address_that_is_listened_on_is_always_said(tmp_path, public_url, lines):
    settings = ServeSettings(data=tmp_path, port=0, public_url=public_url)
    with contextlib.closing(listen(settings)) as listening:
        port = listening.getsockname()[1]
        said = addresses(settings, listening)
    assert [line[: len(start)] for line, start in zip(said, lines, strict=False)] == lines
    assert any(line.endswith(f"http://127.0.0.1:{port}") for line in said)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_is_said_in_brackets_once(tmp_path, host):
    settings = ServeSettings(data=tmp_path, host=host, port=0)
    try:
        listening = listen(settings)
    except RequestError as exc:
        pytest.skip(f"this machine has no IPv6: {exc}")
    with contextlib.closing(listening):
        assert addresses(settings, listening)[0] == f"serves on http://[::1]:{listening.getsockname()[1]}"


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
    """The engine is in a process of its own, as it is where nothing else is asked for."""
    models = ("no-such-model", "intarsia-tiny")
    with running(tmp_path / "data", models=models, isolate=True) as server:
        reply = server.client.post("/api/v6/images/inpaint", json=documented_body(1)).json()
        deadline = time.monotonic() + 30
        while "no-such-model" not in (ready := server.client.get("/readyz")).text and time.monotonic() < deadline:
            time.sleep(0.05)
    assert reply["status"] == "success"
    assert ready.status_code == 503
    assert "Model not found: no-such-model" in ready.text


def test_help_names_every_option_and_starts_nothing(tmp_path):
    done = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    for option in ("--host", "--keys", "--public-url", "--database", "--keep", "--null", "--ray"):
        assert option in done.stdout
