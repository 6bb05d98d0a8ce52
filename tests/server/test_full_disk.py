"""A disk that is full: what was accepted ends well once there is room, and what was not says so."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from intarsia.errors import OutputError
from intarsia.server.engines import job_runner
from intarsia.server.store.files import LocalFiles
from tests.server.killed import documented_body
from tests.server.running import Running, running


class Disk:
    """Decides whether inputs and outputs can be written, and counts how often they could not."""

    def __init__(self) -> None:
        self.inputs_full = self.outputs_full = False
        self.failures = threading.Semaphore(0)

    def check(self, is_full: bool) -> None:
        if is_full:
            self.failures.release()
            raise OutputError("the file cannot be written: No space left on device")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    put_input, put_outputs = LocalFiles.put_input, LocalFiles.put_outputs

    def input_on(self: LocalFiles, data: bytes) -> str:
        disk.check(disk.inputs_full)
        return put_input(self, data)

    def outputs_on(self: LocalFiles, files: Iterable[tuple[str, bytes]]) -> None:
        disk.check(disk.outputs_full)
        put_outputs(self, files)

    monkeypatch.setattr(LocalFiles, "put_input", input_on)
    monkeypatch.setattr(LocalFiles, "put_outputs", outputs_on)
    monkeypatch.setattr(job_runner, "WRITE_AGAIN", 0.01)
    return disk


def _begun(server: Running, disk: Disk) -> dict[str, Any]:
    """A job that is generated, and whose image cannot be written."""
    disk.outputs_full = True
    reply = server.client.post("/api/v6/images/inpaint", json=documented_body(1, instant_response="yes")).json()
    for _ in range(3):
        assert disk.failures.acquire(timeout=30)
    return dict(reply)


def test_an_accepted_job_waits_for_room_and_is_done(tmp_path: Path, disk: Disk) -> None:
    with running(tmp_path) as server:
        expected = server.client.post("/api/v6/images/inpaint", json=documented_body(1)).json()
        job = _begun(server, disk)
        assert server.client.post(job["fetch_result"], json={}).json()["status"] == "processing"

        disk.outputs_full = False
        while (reply := server.client.post(job["fetch_result"], json={}).json())["status"] == "processing":
            threading.Event().wait(0.02)
        assert reply["status"] == "success"
        images = [server.client.get(one["output"][0]).content for one in (expected, reply)]
        assert images[0] == images[1]


def test_a_job_that_waits_for_room_can_be_cancelled(tmp_path: Path, disk: Disk) -> None:
    with running(tmp_path) as server:
        job = _begun(server, disk)
        server.client.delete(f"/jobs/{job['id']}")
        while (state := server.client.get(f"/jobs/{job['id']}").json()["state"]) == "running":
            threading.Event().wait(0.02)
        assert state == "cancelled"


def test_a_server_that_ends_meanwhile_runs_the_job_again(tmp_path: Path, disk: Disk) -> None:
    with running(tmp_path) as server:
        job = _begun(server, disk)

    disk.outputs_full = False
    with running(tmp_path) as server:
        while (reply := server.client.post(f"/api/v6/images/fetch/{job['id']}").json())["status"] == "processing":
            threading.Event().wait(0.02)
    assert reply["status"] == "success"


def test_a_request_that_cannot_be_kept_is_not_accepted(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path) as server:
        disk.inputs_full = True
        response = server.client.post("/api/v6/images/inpaint", json=documented_body(1))
        assert response.status_code == 500
        assert "No space left on device" in response.json()["message"]
        assert server.services.store.counts() == {}
    assert "a request was answered with 500" in caplog.text
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize("folder", ["inputs", "outputs"])
def test_a_folder_that_cannot_be_written_is_found_out(tmp_path: Path, folder: str) -> None:
    files = LocalFiles(tmp_path)
    files.check()
    (tmp_path / folder).rmdir()
    with pytest.raises(OutputError, match=f"the folder .*{folder} cannot be written"):
        files.check()
