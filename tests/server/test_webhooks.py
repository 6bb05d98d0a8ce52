"""Webhooks, to a real receiver on this machine: once each, signed, tried again, and nothing that may not be asked."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import queue
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy: pip install 'intarsia[serve]'")

from intarsia.images import addresses
from intarsia.server.store.jobs import Done, Failed, Job, WebhookTarget
from intarsia.server.store.store import Store
from intarsia.server.store.webhooks import WebhookSender, WebhookTimes

QUICK = WebhookTimes(call=5, connect=2, waits=(0.02, 0.02, 0.02, 0.02), look=0.05, close=2)
SECRET = "a secret of both"
PATIENCE = 20  # seconds that a test waits for what has to come

# For tests of what is sent and to whom: which database the calls come from makes no difference there.
ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@dataclass
class Call:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receiver(ThreadingHTTPServer):
    """Notes each call, and answers with what ``answers`` has next: a status, a function, or 204 when it is empty."""

    daemon_threads = True

    def __init__(self) -> None:
        self.calls: queue.Queue[Call] = queue.Queue()
        self.answers: queue.Queue = queue.Queue()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook?token=secret"

    def handle_error(self, *_args: object) -> None:
        """The sender may leave."""

    def next(self) -> Call:
        return self.calls.get(timeout=PATIENCE)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.put(Call(self.path, dict(self.headers), body))
        try:
            answer = self.server.answers.get_nowait()
        except queue.Empty:
            answer = 204
        if callable(answer):
            answer(self)
            return
        self.send_response(answer)
        if 300 <= answer < 400:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


@pytest.fixture
def start(store: Store) -> Iterator[Callable[..., WebhookSender]]:
    """Starts senders over the store, with a body that says what it was made from; closed at the end."""
    senders = []

    def start_one(
        body: Callable[..., Any] = lambda job, base_url: {"id": job.id, "state": job.state, "base": base_url},
        **options: Any,
    ) -> WebhookSender:
        sender = WebhookSender(store, **{"times": QUICK, "allow_private_urls": True} | options)
        sender.start(body)
        senders.append(sender)
        return sender

    yield start_one
    for sender in senders:
        sender.close()


def ended(store: Store, number: int, url: str) -> None:
    """A job with a webhook that is done."""
    store.accept(Job(id=number, endpoint="community"), most=99, webhook=WebhookTarget(url, "http://public"))
    (claimed,) = store.claim("here")
    store.finish(claimed, Done({}))


def status(store: Store, number: int, wanted: str) -> str:
    """The job's webhook status, once it begins as wanted."""
    deadline = time.monotonic() + PATIENCE
    while not (found := store.get(number).webhook_status).startswith(wanted) and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return found


def test_a_job_that_has_ended_is_called_for_exactly_once(store, start, receiver):
    store.accept(Job(id=1, endpoint="c"), most=9, webhook=WebhookTarget(receiver.url, "http://public"))
    sender = start()
    assert store.get(1).webhook_status == "waiting"
    (claimed,) = store.claim("here")
    assert receiver.calls.empty()
    store.finish(claimed, Done({}))
    sender.wake()

    call = receiver.next()
    assert call.path == "/hook?token=secret"
    assert call.headers["Content-Type"] == "application/json"
    assert "X-Intarsia-Signature" not in call.headers
    assert call.json == {"id": 1, "state": "done", "base": "http://public"}
    assert status(store, 1, "delivered") == "delivered"

    ended(store, 2, receiver.url)
    sender.wake()
    assert receiver.next().json["id"] == 2  # and nothing of the first in between
    assert receiver.calls.empty()


def test_senders_of_two_servers_share_the_calls(store, open_store, start, receiver):
    for number in range(1, 21):
        ended(store, number, receiver.url)
    start()
    other = WebhookSender(open_store(), times=QUICK, allow_private_urls=True)
    other.start(lambda job, base_url: {"id": job.id})
    called = sorted(receiver.next().json["id"] for _ in range(20))
    assert called == list(range(1, 21))
    for number in called:
        assert status(store, number, "delivered") == "delivered"
    other.close()
    assert receiver.calls.empty()


@ON_SQLITE
@pytest.mark.parametrize("shared", [False, True])
def test_only_a_shared_store_is_looked_at_for_the_calls_of_others(open_store, shared, monkeypatch):
    store, looks = open_store(shared=shared), []
    enough, claim = threading.Event(), store.webhooks.claim

    def counted(*args: Any) -> Any:
        looks.append(args)
        if len(looks) > 8:  # two for each of its threads
            enough.set()
        return claim(*args)

    monkeypatch.setattr(store.webhooks, "claim", counted)
    sender = WebhookSender(store, times=QUICK)
    sender.start(lambda job, base_url: {})
    assert enough.wait(10 if shared else 0.5) == shared
    sender.close()


@ON_SQLITE
def test_the_signature_is_the_hmac_of_the_body(store, start, receiver):
    ended(store, 1, receiver.url)
    start(secret=SECRET)
    call = receiver.next()
    expected = hmac.new(SECRET.encode(), call.body, hashlib.sha256).hexdigest()
    assert call.headers["X-Intarsia-Signature"] == f"sha256={expected}"
    assert SECRET.encode() not in call.body


def test_failures_are_tried_again_with_one_delivery_id_until_one_is_taken(store, start, receiver):
    for answer in (500, 404, 503):
        receiver.answers.put(answer)
    ended(store, 1, receiver.url)
    sender = start()
    calls = [receiver.next() for _ in range(4)]
    assert status(store, 1, "delivered") == "delivered"
    assert len({call.headers["X-Intarsia-Delivery"] for call in calls}) == 1
    assert len({call.body for call in calls}) == 1
    ended(store, 2, receiver.url)
    sender.wake()
    assert receiver.next().headers["X-Intarsia-Delivery"] != calls[0].headers["X-Intarsia-Delivery"]


def test_after_five_tries_it_has_failed_and_says_why_without_secrets(store, start, receiver, caplog):
    for _ in range(5):
        receiver.answers.put(500)
    ended(store, 1, receiver.url)
    with caplog.at_level(logging.WARNING, "intarsia"):
        caller = start()
        assert status(store, 1, "failed") == "failed: status 500 after 5 tries"
        caller.close()  # waits for its last line, which follows what it stores
    assert receiver.calls.qsize() == 5
    assert "try 5 of 5: status 500" in caplog.text
    assert "secret" not in caplog.text
    assert store.webhooks.counts() == {"failed": 1}


def test_waits_grow_as_they_are_set(store, start, receiver):
    receiver.answers.put(500)
    ended(store, 1, receiver.url)
    start(times=WebhookTimes(waits=(1000.0,), look=0.05, close=1))
    assert status(store, 1, "waiting: ") == "waiting: status 500 after 1 try"
    assert 990 < store.webhooks.seconds_to_next() <= 1000
    assert WebhookTimes().waits == (10, 60, 300, 1800)


def test_a_restart_goes_on_with_the_tries(store, start, receiver):
    receiver.answers.put(500)
    ended(store, 1, receiver.url)
    start(times=WebhookTimes(waits=(0.2, 1000.0), look=0.05, close=1)).close()
    first = receiver.next() if not receiver.calls.empty() else None
    start(times=WebhookTimes(waits=(0.2, 1000.0), look=0.05, close=1))
    second = receiver.next()
    if first is None:  # it was closed before it began
        first, second = second, receiver.next()
    assert status(store, 1, "delivered") == "delivered"
    assert first.headers["X-Intarsia-Delivery"] == second.headers["X-Intarsia-Delivery"]


def test_a_try_whose_process_died_is_made_again_when_its_lease_is_over(store, receiver, start):
    ended(store, 1, receiver.url)
    died = store.webhooks.claim(0.2)  # and nothing after it
    assert (died.attempt, store.webhooks.claim(9)) == (1, None)
    start()
    assert receiver.next().headers["X-Intarsia-Delivery"] == died.call_id
    assert status(store, 1, "delivered") == "delivered"
    store.webhooks.failed(died, "too late", None)
    assert store.get(1).webhook_status == "delivered"


def test_a_try_that_ends_after_the_next_has_begun_counts_only_where_it_was_taken(store):
    ended(store, 1, "http://example.org/")
    late, next_try = store.webhooks.claim(-1), store.webhooks.claim(60)
    assert (late.attempt, next_try.attempt) == (1, 2)
    store.webhooks.failed(late, "too late", None)
    assert store.get(1).webhook_status == "waiting"
    store.webhooks.delivered(late)
    store.webhooks.failed(next_try, "status 409", None)
    assert store.get(1).webhook_status == "delivered"


@ON_SQLITE
def test_a_redirect_is_a_failure_and_not_followed(store, start, receiver):
    receiver.answers.put(307)
    ended(store, 1, receiver.url)
    start(times=WebhookTimes(waits=(), look=0.05, close=1))
    expected = "failed: status 307 (redirects are not followed) after 1 try"
    assert status(store, 1, "failed") == expected
    assert receiver.next().path.startswith("/hook")
    assert receiver.calls.empty()


@ON_SQLITE
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/", "http://2130706433:{port}/"]
)
def test_a_private_address_is_not_asked_unless_that_is_allowed(store, start, receiver, url):
    ended(store, 1, url.format(port=receiver.server_address[1]))
    start(allow_private_urls=False, times=WebhookTimes(waits=(), look=0.05, close=1))
    assert "its host is not public" in status(store, 1, "failed")
    assert receiver.calls.empty()


@ON_SQLITE
def test_a_name_is_resolved_once_and_what_it_means_later_changes_nothing(store, start, receiver, monkeypatch):
    answers = [["93.184.216.34", "127.0.0.1"], ["93.184.216.34"]]
    asked = []

    def look_up(host: str, port: int) -> Any:
        asked.append(host)
        return answers[0]

    monkeypatch.setattr(addresses, "look_up", look_up)
    ended(store, 1, f"http://both.example:{receiver.server_address[1]}/")
    start(allow_private_urls=False, times=WebhookTimes(waits=(), look=0.05, close=1))
    assert "its host is not public" in status(store, 1, "failed")  # one of its addresses is not
    assert asked == ["both.example"]
    assert receiver.calls.empty()


@ON_SQLITE
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:word@127.0.0.1/", "user name and password in a URL are not sent"),
        ("http://127.0.0.1:99999/", "the URL is not valid"),
        ("ftp://127.0.0.1/", "only http and https"),
        ("http://127.0.0.1:1/", "Connection refused"),
        ("http://[::1/", "the URL is not valid"),
    ],
)
def test_addresses_that_cannot_be_called(store, start, url, reason):
    ended(store, 1, url)
    start(times=WebhookTimes(waits=(), look=0.05, close=1))
    found = status(store, 1, "failed")
    assert reason in found
    assert "word@" not in found


@ON_SQLITE
def test_a_receiver_that_does_not_answer_is_left_in_time(store, start, receiver):
    release = threading.Event()
    receiver.answers.put(lambda _: release.wait(PATIENCE))
    ended(store, 1, receiver.url)
    start(times=WebhookTimes(call=0.3, waits=(), look=0.05, close=1))
    assert status(store, 1, "failed").startswith("failed: it takes too long (allowed: 10 s to connect, 0.3 s in all)")
    release.set()


@ON_SQLITE
def test_a_receiver_that_takes_the_body_in_small_parts_is_left_in_time(store, start):
    """Each of its reads lets the sender go on for a moment, but not for good."""
    size, received = 24_000_000, []
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def trickle() -> None:
        connection, _ = listening.accept()
        with connection:
            while not stop.wait(0.01) and (data := connection.recv(65536)):
                received.append(len(data))

    thread = threading.Thread(target=trickle)
    thread.start()
    ended(store, 1, f"http://127.0.0.1:{listening.getsockname()[1]}/")
    start(lambda job, base_url: {"image": "A" * size}, times=WebhookTimes(call=0.5, waits=(), look=0.05, close=1))
    assert "it takes too long" in status(store, 1, "failed")
    stop.set()
    thread.join()
    listening.close()
    assert 0 < sum(received) < size / 2


@ON_SQLITE
def test_a_slow_receiver_holds_up_neither_others_nor_the_end(store, start, receiver):
    release = threading.Event()
    slow = Receiver()
    threading.Thread(target=slow.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    for number in range(1, 9):
        slow.answers.put(lambda _: release.wait(PATIENCE))
        ended(store, number, slow.url.replace("127.0.0.1", "localhost"))
    ended(store, 20, receiver.url)
    sender = start(times=WebhookTimes(call=PATIENCE, look=0.05, close=0.1))
    assert receiver.next().json["id"] == 20

    began = time.monotonic()
    sender.close()
    assert time.monotonic() - began < PATIENCE / 2
    assert slow.calls.qsize() == 2  # as many as one host has at a time
    assert store.get(1).webhook_status == "waiting"

    release.set()
    for thread in sender._threads:
        thread.join(PATIENCE)
    # What came after the end is not noted.
    assert {store.get(number).webhook_status for number in range(1, 9)} == {"waiting"}
    slow.shutdown()
    slow.server_close()


@ON_SQLITE
def test_a_body_that_cannot_be_made_is_a_failure_and_the_next_is_sent(store, start, receiver, caplog):
    def body(job: Job, base_url: str) -> dict[str, Any]:
        return {"id": job.id, "value": float("nan") if job.id == 1 else 0}

    ended(store, 1, receiver.url)
    ended(store, 2, receiver.url)
    start(body, times=WebhookTimes(waits=(), look=0.05, close=1))
    assert status(store, 1, "failed") == "failed: its body cannot be made after 1 try"
    assert receiver.next().json["id"] == 2


@ON_SQLITE
def test_a_fault_in_a_senders_thread_is_logged_and_does_not_end_it(store, start, receiver, monkeypatch, caplog):
    with monkeypatch.context() as broken:
        broken.setattr(store.webhooks, "claim", None)  # which cannot be called
        start()
        deadline = time.monotonic() + PATIENCE
        while caplog.text.count("a webhook failed unexpectedly") < 4 and time.monotonic() < deadline:
            threading.Event().wait(0.01)
    assert "TypeError" in caplog.text
    ended(store, 1, receiver.url)
    assert status(store, 1, "delivered") == "delivered"


def test_a_cancelled_job_is_called_for_too(store, start, receiver):
    store.accept(Job(id=1, endpoint="c"), most=9, webhook=WebhookTarget(receiver.url, ""))
    store.accept(Job(id=2, endpoint="c"), most=9, webhook=WebhookTarget(receiver.url, ""))
    store.claim("old")
    store.cancel(1)
    store.cancel(2)
    start()
    assert receiver.next().json["id"] == 2
    store.requeue_lost("new")  # its server has died: it is cancelled now
    assert receiver.next().json == {"id": 1, "state": "cancelled", "base": ""}


def test_a_clock_that_was_set_back_does_not_hold_up_calls(tmp_path, receiver):
    now = [2e9]
    store = Store(tmp_path / "jobs.sqlite3", clock=lambda: now[0])
    ended(store, 1, receiver.url)
    now[0] = 1e9
    assert store.webhooks.claim(9).job_id == 1
    store.close()


def test_what_is_not_there_any_more_is_no_fault(tmp_path, receiver):
    """Rows that retention removed while a call was under way."""
    store = Store(tmp_path / "jobs.sqlite3")
    ended(store, 1, receiver.url)
    call = store.webhooks.claim(9)
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as connection:
        connection.execute("DELETE FROM webhooks")
    store.webhooks.delivered(call)
    store.close()


def test_a_served_request_calls_its_webhook_with_the_reply_that_fetch_gives(tmp_path, receiver):
    pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'intarsia[serve]'")
    from tests.server.killed import documented_body
    from tests.server.running import running

    body = documented_body(1, webhook=receiver.url, track_id="mine")
    with running(tmp_path, allow_private_urls=True, webhook_secret=SECRET) as server:
        reply = server.client.post("/api/v6/images/inpaint", json=body).json()
        call = receiver.next()
        assert status(server.services.store, reply["id"], "delivered") == "delivered"
        fetched = server.client.post("/api/v6/images/fetch", json={"request_id": reply["id"]}).json()
        assert server.client.get(call.json["output"][0]).status_code == 200
    expected = hmac.new(SECRET.encode(), call.body, hashlib.sha256).hexdigest()
    assert call.headers["X-Intarsia-Signature"] == f"sha256={expected}"
    assert (call.json["status"], call.json["track_id"]) == ("success", "mine")
    assert fetched.pop("webhook_status") == "delivered"
    assert {name: value for name, value in call.json.items() if name != "webhook_status"} == fetched
    assert receiver.calls.empty()


def test_a_request_that_fails_or_is_cancelled_calls_with_the_reason(tmp_path, receiver):
    pytest.importorskip("fastapi", reason="needs FastAPI: pip install 'intarsia[serve]'")
    from intarsia.server.routes.job_replies import reply_to, webhook_body
    from intarsia.server.routes.job_view import job_view
    from intarsia.server.services import Services
    from intarsia.server.settings import EngineSettings, ServeSettings
    from tests.server.killed import documented_body

    settings = ServeSettings(data=tmp_path, engine=EngineSettings(backend="null"), allow_private_urls=True)
    services = Services.open(settings)
    acceptance = services.acceptance
    bodies = [documented_body(number, webhook=receiver.url, track_id=number) for number in range(2)]
    accepted = [acceptance.accept(acceptance.documented(body, None)) for body in bodies]
    (failed,) = services.store.claim("here")
    services.store.finish(failed, Failed("no room on the device", "memory"))
    services.store.cancel(accepted[1].id)
    services.webhooks.start(lambda job, base_url: webhook_body(job, services, base_url))

    calls = sorted((receiver.next().json for _ in range(2)), key=lambda body: body["track_id"])
    for job in accepted:
        assert status(services.store, job.id, "delivered") == "delivered"
        ended_job = services.store.get(job.id)
        assert reply_to(ended_job, services, "").body["webhook_status"] == "delivered"
        assert job_view(ended_job, services, "")["webhook_status"] == "delivered"
        expired = replace(ended_job, state="done", expired=True)
        assert reply_to(expired, services, "").body["webhook_status"] == "delivered"
        realtime = reply_to(replace(ended_job, endpoint="realtime"), services, "").body
        assert set(realtime) == {"status", "message"}  # as that endpoint's document has it
    reasons = ["no room on the device", "the request was cancelled"]
    assert calls == [
        {"status": "failed", "id": job.id, "message": reason, "track_id": number}
        for number, (job, reason) in enumerate(zip(accepted, reasons, strict=True))
    ]
    services.webhooks.close()
    services.store.close()
    services.lock.release()
