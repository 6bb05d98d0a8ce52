"""Lines of the log: one for each message, whatever is in it."""

from __future__ import annotations

import logging
import subprocess
import sys

import httpx2
import pytest

from intarsia.server.logs import LineFormatter
from tests.server.killed import PatientClient, ServerProcess, documented_body


def _formatted(message: str, error: BaseException | None = None) -> list[str]:
    record = logging.LogRecord("intarsia", logging.ERROR, "file", 1, message, (), None)
    if error is not None:
        try:
            raise error
        except ValueError:
            record.exc_info = sys.exc_info()
    return LineFormatter().format(record).split("\n")


@pytest.mark.parametrize("text", ["one\ntwo", "one\r\n2026-01-01T00:00:00Z INFO forged", "\x1b[2J", "a\u2028b"])
def test_a_message_is_one_printable_line(text):
    [line] = _formatted(text)
    assert line.isprintable()


def test_no_line_of_a_traceback_looks_like_a_message():
    first, *trace = _formatted("it failed", ValueError("x\n2026-01-01T00:00:00Z INFO forged"))
    assert first.endswith("ERROR it failed")
    assert len(trace) > 2
    assert all(line.startswith("  | ") for line in trace)


def test_a_server_writes_a_line_for_each_request(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    with ServerProcess(tmp_path, "--null") as server, PatientClient(server) as client:
        assert client.post("/api/v6/images/inpaint", documented_body(1, key="my-secret-key"))["status"] == "success"
        assert server.stop() == 0
    [line] = [line for line in server.lines if "method=POST" in line]
    assert "INFO method=POST path=/api/v6/images/inpaint status=200 seconds=" in line
    assert "my-secret-key" not in "".join(server.lines)


def test_a_server_whose_log_nobody_reads_goes_on_answering(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    command = [sys.executable, "-m", "intarsia", "serve", "--null", "--port", "0", "--data", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = next(line for line in server.stderr if "serves on" in line).split()[-1]
        with httpx2.Client(timeout=10, trust_env=False) as client:
            for _ in range(700):  # lines of some 130 bytes: more than a pipe holds
                assert client.get(f"{url}/healthz").status_code == 200
        server.kill()
