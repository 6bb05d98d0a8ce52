"""The server on a real Ray cluster of this machine: two replicas, one of which is killed in the middle."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
ray = pytest.importorskip("ray", reason="needs Ray: pip install 'intarsia[serve-ray]'")
pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install 'intarsia[serve-ray]'")

from intarsia.server.ray_serve import ENGINES, RayOptions, deploy
from intarsia.server.settings import EngineSettings, ServeSettings
from tests.server.killed import documented_body
from tests.server.postgres import PostgresServer, missing

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what Ray warns of is Ray's

REPLICAS = 2


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    if missing():
        pytest.skip(missing())
    folder = Path(tempfile.mkdtemp(prefix="postgres"))
    server = PostgresServer(folder)
    yield server.new_database()
    server.stop()


@pytest.fixture(scope="module")
def client(database: str) -> Iterator[httpx2.Client]:
    """A client of the deployed application; each network evaluation takes a while."""
    os.environ["INTARSIA_NULL_STEP_SECONDS"] = "0.05"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    data = Path(tempfile.mkdtemp(prefix="intarsia"))
    ray.init(num_cpus=6, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    settings = ServeSettings(
        data=data, database=database, engine=EngineSettings(backend="null"), port=8971, wait=0.0, queue=1000
    )
    try:
        deploy(settings, RayOptions(replicas=REPLICAS, gpus=0, cpus=1))
        with httpx2.Client(base_url="http://127.0.0.1:8971", timeout=60, trust_env=False) as opened:
            yield opened
    finally:
        ray.serve.shutdown()
        ray.shutdown()
        del os.environ["INTARSIA_NULL_STEP_SECONDS"]
        shutil.rmtree(data, ignore_errors=True)


def _submitted(client: httpx2.Client, numbers: range) -> dict[int, int]:
    ids = {}
    for number in numbers:
        reply = client.post("/api/v6/images/inpaint", json=documented_body(number)).json()
        assert reply["status"] == "processing", reply
        ids[number] = reply["id"]
    return ids


def _images(client: httpx2.Client, ids: dict[int, int]) -> dict[int, bytes]:
    """The first image of each job, as soon as it is done."""
    images = {}
    for number, job_id in ids.items():
        while (reply := client.post("/api/v6/images/fetch", json={"request_id": job_id}).json())[
            "status"
        ] == "processing":
            threading.Event().wait(0.1)
        assert reply["status"] == "success", reply
        images[number] = client.get(reply["output"][0]).content
    return images


def _replica_processes() -> list[int]:
    """Processes of the engines' replicas; Ray names each after what it runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if path.read_bytes().startswith(f"ray::ServeReplica:{ENGINES}:Engines".encode()):
                found.append(int(path.parent.name))
    return found


def test_a_replica_that_is_killed_loses_no_job(client):
    quiet = _images(client, _submitted(client, range(16)))

    ids = _submitted(client, range(16))
    processes = _replica_processes()
    assert len(processes) == REPLICAS
    os.kill(processes[0], signal.SIGKILL)
    assert _images(client, ids) == quiet


def test_a_running_job_is_cancelled_on_its_replica(client):
    job_id = client.post(
        "/jobs", json={key: value for key, value in documented_body(1, steps=150).items() if key in _LIBRARY_FIELDS}
    ).json()["id"]
    while client.get(f"/jobs/{job_id}").json()["state"] == "queued":
        threading.Event().wait(0.05)
    client.delete(f"/jobs/{job_id}")
    while (state := client.get(f"/jobs/{job_id}").json()["state"]) == "running":
        threading.Event().wait(0.05)
    assert state == "cancelled"


def test_errors_of_requests_are_documented_replies_here_too(client):
    response = client.post("/api/v6/images/inpaint", json=documented_body(1, steps="many"))
    assert (response.status_code, response.json()["status"]) == (400, "error")
    assert response.headers["x-content-type-options"] == "nosniff"


_LIBRARY_FIELDS = {"prompt", "init_image", "mask_image", "width", "height", "steps", "scheduler", "seed"}
