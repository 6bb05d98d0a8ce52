"""Several servers on one database: each job runs to one end, whichever of them dies or seems to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'intarsia[serve]'")

from intarsia.server.engines import dispatcher
from intarsia.server.engines.dispatcher import Dispatcher
from intarsia.server.engines.events import JobEvents
from intarsia.server.store import leases
from intarsia.server.store.jobs import Done, Job
from intarsia.server.store.store import Store
from tests.server.killed import PatientClient, ServerProcess, documented_body

PATIENCE = 20  # seconds that a test waits for what has to come


class Host:
    """An engine host that ends a job when the test says so."""

    capacity = 4
    problem = ""

    def __init__(self) -> None:
        self.started: list[Job] = []

    def start(self, job: Job) -> None:
        self.started.append(job)

    def cancel(self, job_id: int) -> None:
        self.started = [job for job in self.started if job.id != job_id]

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def serve(
    open_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[Dispatcher, Host]]]:
    """Starts dispatchers as servers of those names, whose leases run out after a second and a half."""
    monkeypatch.setattr(leases, "LEASE", 1.5)
    monkeypatch.setattr(dispatcher, "HEARTBEAT", 0.05)
    monkeypatch.setattr(dispatcher, "_LOOK", 0.02)
    running = []

    def start(name: str) -> tuple[Dispatcher, Host]:
        host = Host()
        server = Dispatcher(open_store(shared=True), JobEvents(), server=name, shared=True)
        server.start(host)
        running.append(server)
        return server, host

    yield start
    for server in running:
        server.stop()


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def queue(store: Store, *numbers: int) -> None:
    for number in numbers:
        store.accept(Job(id=number, endpoint="community"), most=99)


def test_a_server_takes_over_from_one_that_is_heard_no_more(open_store, serve):
    store = open_store(shared=True)
    queue(store, 1)
    (lost,) = store.claim("dead")
    server, host = serve("alive")
    eventually(lambda: host.started)
    assert not store.finish(lost, Done({"by": "dead"}))
    server.ended(1, Done({"by": "alive"}))
    eventually(lambda: store.get(1).state == "done")
    assert (store.get(1).result, store.get(1).attempts) == ({"by": "alive"}, 2)


def test_servers_that_are_alive_keep_their_jobs(open_store, serve):
    store = open_store(shared=True)
    queue(store, *range(1, 9))
    (one, host), (two, other) = serve("one"), serve("two")
    eventually(lambda: len(host.started) + len(other.started) == 8)
    threading.Event().wait(2 * leases.LEASE)  # that nothing happens can only be waited for
    assert {store.get(number).attempts for number in range(1, 9)} == {1}
    for server, jobs in ((one, host.started), (two, other.started)):
        for job in list(jobs):
            server.ended(job.id, Done({}))
    eventually(lambda: store.counts() == {"done": 8})


def test_a_job_that_comes_back_to_the_server_it_runs_on_is_not_started_again(open_store, serve):
    store = open_store(shared=True)
    server, host = serve("one")
    queue(store, 1)
    eventually(lambda: host.started)
    store.requeue(store.get(1))  # as another server does for which this one seemed dead
    eventually(lambda: store.get(1).attempts == 2)
    server.ended(1, Done({}))
    eventually(lambda: store.get(1).state == "done")
    assert len(host.started) == 1


@pytest.mark.slow
def test_the_jobs_of_a_killed_server_end_on_the_other(postgres, tmp_path):
    options = ("--null", "--wait", "0", "--queue", "1000", "--database", postgres.new_database())
    environment = {"INTARSIA_NULL_STEP_SECONDS": "0.1"}
    killed, other = (ServerProcess(tmp_path, *options, environment=environment) for _ in range(2))
    killed.start()
    with PatientClient(killed) as client:
        ids = [client.post("/api/v6/images/inpaint", documented_body(number))["id"] for number in range(30)]
    other.start()
    killed.kill()
    with PatientClient(other) as client:
        for job_id in ids:
            while (reply := client.post("/api/v6/images/fetch", {"request_id": job_id}))["status"] == "processing":
                threading.Event().wait(0.1)
            assert reply["status"] == "success", reply
    assert other.stop() == 0
