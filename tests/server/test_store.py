"""The job store, on SQLite and on a real PostgreSQL: what it promises, also to several threads and processes."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy: pip install 'intarsia[serve]'")

from hypothesis import given, settings
from hypothesis import strategies as st

from intarsia.server.store.jobs import Accepted, Done, Failed, Job, Queue, WebhookTarget
from intarsia.server.store.kept_jobs import KeptJobs
from intarsia.server.store.leases import LEASE
from intarsia.server.store.schema import SERVERS
from intarsia.server.store.store import IdInUse, QueueFull, Store

DONE = Done({"seconds": 1.0})
TARGET = WebhookTarget("https://example.org/hook", "http://here")


def job(number: int, **fields: Any) -> Job:
    return Job(id=number, endpoint="community", **{"lane_rows": 10, "created": 1.0, **fields})


def together(function: Callable[..., Any], arguments: Iterable[Any], threads: int) -> list[Any]:
    """Results of calls that begin at the same moment."""
    barrier = threading.Barrier(threads)

    def call(argument: Any) -> Any:
        barrier.wait(30)
        return function(argument)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, arguments))


def queue(store: Store, *numbers: int) -> None:
    for number in numbers:
        store.accept(job(number), most=1000)


TEXTS = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)


def test_any_json_comes_back_as_it_was_stored(open_store):
    store, numbers = open_store(), itertools.count(1)

    @settings(max_examples=20)
    @given(request=OBJECTS, delivery=OBJECTS, meta=OBJECTS, result=OBJECTS, warnings=st.lists(TEXTS))
    def check(request: Any, delivery: Any, meta: Any, result: Any, warnings: Any) -> None:
        number = next(numbers)
        stored = job(number, request=request, delivery=delivery, meta=meta, warnings=tuple(warnings), files=("a", "b"))
        store.accept(stored, most=1000)
        assert store.get(number) == stored
        (claimed,) = store.claim("here")
        assert store.finish(claimed, Done(result))
        assert store.get(number).result == result

    check()


ACCEPTING = """
import os, signal, sys
from intarsia.server.store.jobs import Job, WebhookTarget
from intarsia.server.store.store import Store
store = Store(sys.argv[1])
store.accept(Job(id=7, endpoint="community", meta={"a": 1}), most=5, webhook=WebhookTarget("http://e.org", "http://h"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_accepted_job_is_there_after_its_process_was_killed(open_store, database):
    open_store()
    done = subprocess.run([sys.executable, "-c", ACCEPTING, database], check=False)
    assert done.returncode == -9
    found = open_store().get(7)
    assert (found.state, found.meta, found.webhook_status) == ("queued", {"a": 1}, "waiting")


def test_another_connection_sees_a_job_as_soon_as_it_is_accepted(open_store):
    one, other = open_store(), open_store()
    queue(one, 5)
    assert other.get(5) == job(5)
    assert one.get(6) is None


@pytest.mark.parametrize("number", [0, -1, 2**53, 2**80])
def test_an_id_that_none_has_is_no_job(open_store, number):
    assert open_store().get(number) is None


def test_the_queue_takes_exactly_as_many_as_it_may_from_sixteen_threads(open_store):
    stores = [open_store(), open_store()]

    def accept(number: int) -> int:
        try:
            stores[number % 2].accept(job(number), most=10)
        except QueueFull:
            return 0
        return 1

    assert sum(together(accept, range(1, 33), 16)) == 10
    assert stores[0].counts() == {"queued": 10}


def test_one_key_from_eight_threads_gives_one_job(open_store):
    stores = [open_store(), open_store()]

    def accept(number: int) -> Accepted:
        return stores[number % 2].accept(job(number), most=1000, idempotency_key="once", webhook=TARGET)

    accepted = together(accept, range(1, 9), 8)
    assert len({stored.id for stored, _, _ in accepted}) == 1
    assert sum(is_new for _, is_new, _ in accepted) == 1
    assert stores[0].counts() == {"queued": 1}
    assert stores[0].webhooks.counts() == {"waiting": 1}


def test_a_key_is_its_owners_and_holds_when_the_queue_is_full(open_store):
    store = open_store()
    store.accept(job(1, owner="ann"), most=2, idempotency_key="k")
    assert store.accept(job(2, owner="bob"), most=2, idempotency_key="k")[1]
    earlier, is_new, _ = store.accept(job(3, owner="ann"), most=2, idempotency_key="k")
    assert (earlier.id, is_new) == (1, False)
    assert store.with_key("bob", "k").id == 2
    assert store.with_key("bob", None) is None


def test_an_id_in_use_is_said_and_stores_nothing(open_store):
    store = open_store()
    queue(store, 1)
    with pytest.raises(IdInUse, match="the id 1 is in use"):
        store.accept(job(1, meta={"other": 1}), most=9, idempotency_key="k", webhook=TARGET)
    assert store.get(1) == job(1)
    assert store.with_key("", "k") is None
    assert store.webhooks.counts() == {}


def test_no_job_is_claimed_twice(open_store):
    stores = [open_store(), open_store()]
    queue(stores[0], *range(1, 61))

    def claim_all(number: int) -> list[int]:
        claimed = []
        while jobs := stores[number % 2].claim(f"server {number}", 1 + number % 3):
            claimed += [found.id for found in jobs]
        return claimed

    claimed = [number for numbers in together(claim_all, range(6), 6) for number in numbers]
    assert sorted(claimed) == list(range(1, 61))


def test_jobs_are_claimed_in_the_order_of_acceptance_whatever_their_ids(open_store):
    store = open_store()
    queue(store, 50, 7, 30)
    store.cancel(30)
    queue(store, 20)
    assert [found.id for found in store.claim("here", 2)] == [50, 7]
    assert [found.id for found in store.claim("here", 2)] == [20]
    assert store.claim("here") == []


def test_a_job_says_what_is_ahead_of_it(open_store):
    store = open_store()
    ahead = [
        store.accept(job(number, lane_rows=number, owner=f"{number % 4}"), most=9).queue for number in (9, 5, 7, 1)
    ]
    assert ahead == [Queue(0, 0, 0), Queue(1, 1, 9), Queue(2, 0, 14), Queue(3, 2, 21)]
    (first,) = store.claim("here")
    assert store.check_room(9, owner="1") == Queue(3, 2, 22)
    assert store.lane_rows_before(1) == (3, 21)  # what runs counts too
    store.finish(first, DONE)
    assert store.lane_rows_before(1) == (2, 12)
    assert store.lane_rows_before(5) == (0, 0)


def test_pages_go_from_the_newest_to_the_oldest(open_store):
    store = open_store()
    for number in range(1, 8):
        store.accept(job(number, owner="ann" if number % 2 else "bob"), most=9)
    assert [found.id for found in store.page(None, most=3)] == [7, 6, 5]
    assert [found.id for found in store.page(None, most=9, before=5)] == [4, 3, 2, 1]
    assert [found.id for found in store.page("ann", before=2**70)] == [7, 5, 3, 1]


def test_a_running_job_ends_once_however_many_say_so(open_store):
    stores = [open_store(), open_store()]
    queue(stores[0], 1)
    (claimed,) = stores[0].claim("here")

    def end(number: int) -> bool:
        store = stores[number % 2]
        if number % 4 < 2:
            return store.finish(claimed, Done({"by": number})) is not None
        if number % 3:
            return store.finish(claimed, Failed(f"by {number}")) is not None
        return store.cancelled(claimed)

    ended = together(end, range(8), 8)
    assert sum(ended) == 1
    found, winner = stores[0].get(1), ended.index(True)
    if found.state == "done":
        assert found.result["by"] == winner
    elif found.state == "failed":
        assert found.error == f"by {winner}"
    else:
        assert (found.state, winner in (3, 6)) == ("cancelled", True)


@pytest.mark.parametrize("ended", [Done({"by": "here"}), Failed("no memory", "memory")])
def test_what_a_change_returns_is_what_is_stored(open_store, ended):
    store = open_store()
    accepted = store.accept(job(1), most=9, webhook=TARGET).job
    queue(store, 2)
    first, second = store.claim("here", 9)
    assert (first, second) == (store.get(1), store.get(2))
    assert (first.state, first.attempts, first.created) == ("running", 1, accepted.created)
    assert (first.webhook_status, second.webhook_status) == ("waiting", "")

    for claimed in (first, second):
        over = store.finish(claimed, ended)
        assert over is not None
        assert replace(over, webhook_status=store.get(claimed.id).webhook_status) == store.get(claimed.id)
    with store.database.read() as connection:
        assert connection.execute(sa.text("SELECT job_id, status FROM webhooks")).all() == [(1, "due")]


def test_a_server_that_lost_its_job_changes_nothing(open_store):
    store = open_store()
    queue(store, 1)
    (lost,) = store.claim("one")
    store.requeue_lost("two")
    assert not store.finish(lost, Done({"by": "one"}))  # it is queued again
    (taken,) = store.claim("two")
    assert (lost.attempts, taken.attempts) == (1, 2)

    assert not store.finish(lost, Done({"by": "one"}))
    assert not store.cancelled(lost)
    store.requeue(lost)
    assert store.get(1).state == "running"
    assert store.finish(taken, Done({"by": "two"}))
    assert store.get(1).result == {"by": "two"}


def test_a_failure_is_kept_with_its_kind(open_store):
    store = open_store(clock=lambda: 123.0)
    queue(store, 1)
    (claimed,) = store.claim("here")
    assert claimed.started == 123.0
    store.finish(claimed, Failed("no memory", "memory"))
    found = store.get(1)
    assert (found.state, found.error, found.error_kind, found.finished) == ("failed", "no memory", "memory", 123.0)


def test_cancelling_in_every_state(open_store):
    store = open_store()
    assert store.cancel(1) is None
    queue(store, 1, 2, 3, 4)
    assert store.cancel(4).state == "cancelled"
    assert store.cancel(4) == store.get(4)

    one, two, three = store.claim("here", 3)
    store.finish(one, DONE)
    store.finish(two, Failed("no"))
    assert [store.cancel(number).state for number in (1, 2, 3)] == ["done", "failed", "running"]
    assert [store.get(number).cancel_asked for number in (1, 2, 3)] == [False, False, True]
    assert store.cancel_asked("here") == [3]
    assert store.cancel_asked("there") == []
    assert store.cancelled(three)
    assert store.counts() == {"done": 1, "failed": 1, "cancelled": 2}


def test_a_job_that_is_claimed_and_cancelled_at_once_is_one_of_both(open_store):
    stores = [open_store(), open_store()]
    for number in range(1, 16):
        queue(stores[0], number)
        acts = [partial(stores[0].claim, "here"), partial(stores[1].cancel, number)]
        claimed, _ = together(lambda act: act(), acts, 2)
        found = stores[0].get(number)
        assert found.cancel_asked
        assert found.state == ("running" if claimed else "cancelled")
        if claimed:
            stores[0].cancelled(claimed[0])


def test_a_requeued_job_has_its_old_place_and_one_to_be_cancelled_is(open_store):
    store = open_store()
    store.accept(job(9), most=9, webhook=TARGET)
    queue(store, 5, 7)
    ninth, fifth = store.claim("here", 2)
    store.cancel(9)
    store.requeue(ninth)
    store.requeue(fifth)
    assert store.get(9).state == "cancelled"
    assert store.get(9).finished is not None
    assert store.webhooks.counts() == {"due": 1}
    assert [found.id for found in store.claim("here", 2)] == [5, 7]


def test_without_sharing_whatever_another_server_ran_is_lost(open_store):
    store = open_store()
    queue(store, 1, 2, 3)
    store.claim("old", 2)
    store.claim("here")
    store.cancel(2)
    assert store.requeue_lost("here") == 1
    assert store.counts() == {"queued": 1, "running": 1, "cancelled": 1}


def test_a_shared_database_leaves_jobs_to_servers_whose_heart_beats(open_store):
    now = [1000.0]
    one, two = (open_store(shared=True, clock=lambda: now[0]) for _ in range(2))
    queue(one, 1, 2)
    one.claim("one")  # which is a heartbeat
    two.claim("two")
    now[0] += LEASE - 1
    two.heartbeat("two")
    assert two.requeue_lost("two") == 0

    now[0] += 2
    assert two.requeue_lost("two") == 1
    assert [two.get(number).state for number in (1, 2)] == ["queued", "running"]
    assert one.requeue_lost("one") == 0


def test_postgresql_measures_heartbeats_by_its_own_clock(postgres, monkeypatch):
    store = Store(postgres.new_database(), shared=True)
    queue(store, 1)
    store.claim("one")
    monkeypatch.setattr("time.time", lambda: 4e9)  # this machine's clock jumps
    assert store.requeue_lost("two") == 0

    with store.database.write() as connection:
        connection.execute(sa.update(SERVERS).values(heartbeat=SERVERS.c.heartbeat - LEASE))
    assert store.requeue_lost("two") == 1
    assert store.database.now() < 3.9e9
    store.close()


def test_inputs_are_needed_until_their_job_has_ended(open_store):
    store = open_store()
    image, mask, face = ({"sha256": letter * 64} for letter in "abc")
    store.accept(job(1, request={"init_image": image, "ip_adapter": {"image": face}, "loras": [1]}), most=9)
    store.accept(job(2, request={"init_image": image, "mask_image": mask}), most=9)
    kept = KeptJobs(store.database)
    assert kept.needed_inputs() == {"a" * 64, "b" * 64, "c" * 64}
    (claimed,) = store.claim("here")
    assert len(kept.needed_inputs()) == 3
    store.finish(claimed, DONE)
    assert kept.needed_inputs() == {"a" * 64, "b" * 64}
    store.cancel(2)
    assert kept.needed_inputs() == set()


def test_a_transaction_that_fails_leaves_nothing(open_store):
    store = open_store()

    def fail() -> None:
        with store.database.write() as connection:
            connection.execute(sa.text("UPDATE schema_version SET version = 99"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert job(1) == store.accept(job(1), most=1)[0]
    open_store().close()  # its version is still there
