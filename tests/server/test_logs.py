"""Lines of the log: one for each message, whatever is in it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time

import httpx2
import pytest

from intarsia.server.logs import LineFormatter
from tests.server.killed import PatientClient, ServerProcess, documented_body

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) \S.*")


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


OTHERS = """
import logging, threading, warnings
from intarsia.server.logs import log_to_stderr

log_to_stderr()
logging.getLogger("uvicorn.error").warning("Invalid request\\nfrom outside")
logging.getLogger("uvicorn.error").info("not worth a line")
logging.getLogger("intarsia.access").info("method=GET")
warnings.warn("it is old", DeprecationWarning, stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
"""


def test_what_others_log_and_what_ends_a_thread_has_the_same_form():
    done = subprocess.run([sys.executable, "-W", "default", "-c", OTHERS], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert all(LINE.fullmatch(line) or line.startswith("  | ") for line in lines), done.stderr
    messages = [line.split(" ", 1)[1] for line in lines if LINE.fullmatch(line)]
    assert messages[:2] == ["WARNING Invalid request from outside", "INFO method=GET"]
    assert messages[2].startswith("WARNING <string>:9: DeprecationWarning: it is old")
    assert messages[3] == "ERROR the thread worker has ended by an exception"
    assert "  | ZeroDivisionError: division by zero" in lines


@pytest.mark.slow
def test_the_engines_process_logs_in_the_same_form(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    with ServerProcess(tmp_path, "--null") as server, PatientClient(server) as client:
        assert client.post("/api/v6/images/inpaint", documented_body(0))["status"] == "success"  # the engine is open
        outputs = (tmp_path / "outputs").rename(tmp_path / "elsewhere")
        reply = client.post("/api/v6/images/inpaint", documented_body(1, instant_response=True))
        deadline = time.monotonic() + 30
        while not any("cannot be written" in line for line in server.lines) and time.monotonic() < deadline:
            time.sleep(0.02)
        outputs.rename(tmp_path / "outputs")
        path = reply["future_links"][0].removeprefix(server.url)
        while client.get(path).status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.stop() == 0
    logged = [line.rstrip("\n") for line in server.lines if not line.startswith("intarsia: ")]
    assert all(LINE.fullmatch(line) for line in logged), logged
    [line] = [line for line in logged if "cannot be written" in line]
    assert f"ERROR the images of job {reply['id']} cannot be written, which is tried again" in line


def test_a_server_writes_a_line_for_each_request(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    with ServerProcess(tmp_path, "--null") as server, PatientClient(server) as client:
        assert client.post("/api/v6/images/inpaint", documented_body(1, key="my-secret-key"))["status"] == "success"
        assert server.stop() == 0
    [line] = [line for line in server.lines if "method=POST" in line]
    assert "INFO method=POST path=/api/v6/images/inpaint status=200 seconds=" in line
    assert "my-secret-key" not in "".join(server.lines)


@pytest.mark.slow
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
