"""What one job costs a server in statements and transactions, in which nothing else is accepted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sa = pytest.importorskip("sqlalchemy", reason="needs the extra serve")

from tests.server.killed import documented_body
from tests.server.running import Running, running


class Executed:
    """The statements of a server's database, and its transactions that write."""

    def __init__(self, server: Running) -> None:
        database = server.services.store.database
        self.statements: list[str] = []
        self.commits = 0
        sa.event.listen(database._engine, "before_cursor_execute", self._executed)
        sa.event.listen(database._writer, "commit", self._committed)

    def _executed(self, connection: object, cursor: object, statement: str, *rest: object) -> None:
        if not threading.current_thread().name.startswith(("intarsia-retention", "intarsia-webhooks")):
            self.statements.append(" ".join(statement.split()))

    def _committed(self, connection: object) -> None:
        self.commits += 1

    def count(self, beginning: str) -> int:
        return sum(statement.startswith(beginning) for statement in self.statements)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "data") as opened:
        _run(opened, 0)  # what is done for the first job alone
        yield opened


def _run(server: Running, number: int) -> str:
    """Run a job to its end, looking at it only then; returns the path under which it is fetched."""
    over = threading.Event()
    server.services.dispatcher._on_end = lambda job: over.set()
    reply = server.client.post("/api/v6/images/inpaint", json=documented_body(number, instant_response="yes")).json()
    assert over.wait(30)
    return reply["fetch_result"]


def test_a_job_is_three_transactions_of_two_statements_at_most(server):
    executed = Executed(server)
    _run(server, 1)
    assert executed.commits == 3  # accepted, begun, ended
    assert executed.count("INSERT INTO jobs") == 1
    assert executed.count("UPDATE jobs") == 2
    assert executed.count("SELECT") <= 3  # the queue, before it is read and as it is stored, and what is to be begun
    assert executed.count("INSERT INTO webhooks") == executed.count("UPDATE webhooks") == 0
    assert len(executed.statements) <= 6


def test_a_request_that_waits_is_woken_once_at_the_job_s_end(server, monkeypatch):
    """Steps are no reason to look at the job: sixteen requests that wait would be woken at each of theirs."""
    looks, delivered = [], []
    look, deliver = server.services.store.get, server.services.events._deliver
    monkeypatch.setattr(server.services.store, "get", lambda job_id: looks.append(job_id) or look(job_id))
    monkeypatch.setattr(server.services.events, "_deliver", lambda event: delivered.append(event) or deliver(event))
    reply = server.client.post("/api/v6/images/inpaint", json=documented_body(1)).json()
    assert reply["status"] == "success"
    assert len(looks) <= 2  # as it begins to wait, and at the end
    assert {event.kind for event in delivered} <= {"stopped"}


def test_fetching_a_job_that_is_done_is_one_statement(server):
    path = _run(server, 1)
    executed = Executed(server)
    assert server.client.post(path, json={}).json()["status"] == "success"
    assert [statement.split()[0] for statement in executed.statements] == ["SELECT"]


def test_ends_and_what_is_begun_in_their_place_share_a_transaction(server, monkeypatch):
    """While the disk is slow, all that has happened in the meantime is stored together."""
    store, advance = server.services.store, server.services.store.advance
    dispatcher = server.services.dispatcher
    calls: list[tuple[int, int]] = []
    disk = threading.Event()

    def slow(name: str, ends: list[object], most: int) -> object:
        disk.wait(30)
        tries = 600
        while calls and dispatcher._running and (tries := tries - 1):  # of the six that the first call has begun
            threading.Event().wait(0.05)
        over, jobs = advance(name, ends, most)
        calls.append((len(over), len(jobs)))
        return over, jobs

    monkeypatch.setattr(store, "advance", slow)
    for number in range(6):
        server.client.post("/api/v6/images/inpaint", json=documented_body(number, instant_response="yes"))
    disk.set()
    tries = 200
    while sum(ended for ended, _ in calls) < 6 and (tries := tries - 1):
        threading.Event().wait(0.05)
    assert calls[0] == (0, 6)
    assert sum(ended for ended, _ in calls) == 6
    assert len(calls) <= 3  # what begins, what had ended as the disk became slow again, and all other ends
