"""Metrics over a real server: what they count, and what is never in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from intarsia.server.metrics import Metrics
from intarsia.server.settings import EngineSettings
from intarsia.server.store.jobs import Job
from tests.server.event_stream import ended
from tests.server.killed import documented_body
from tests.server.running import Running, running
from tests.server.step_gate import StepGate


def samples(text: str) -> dict[Any, float]:
    """Every value by name and labels."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def read(server: Running) -> dict[Any, float]:
    response = server.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return samples(response.text)


def value(found: dict[Any, float], name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


@pytest.fixture
def narrow(gate: StepGate, tmp_path: Path) -> Iterator[Running]:
    """A held server whose engine evaluates two images together."""
    with running(tmp_path / "data", engine=EngineSettings(backend="null", slots=2)) as opened:
        try:
            yield opened
        finally:
            gate.open()


def test_jobs_are_counted_by_endpoint_and_state(server, job_fields):
    done = server.client.post("/jobs", json=job_fields).json()
    ended(server.client, done)
    server.client.post("/api/v6/images/inpaint", json=documented_body(1))
    found = read(server)

    for endpoint in ("jobs", "community"):
        assert value(found, "intarsia_jobs", endpoint=endpoint, state="done") == 1
        assert value(found, "intarsia_jobs_ended_total", endpoint=endpoint, state="done") == 1
        assert value(found, "intarsia_job_wait_seconds_count", endpoint=endpoint) == 1
    shown = server.client.get(done["url"]).json()
    ran = value(found, "intarsia_job_run_seconds_sum", endpoint="jobs")
    assert ran == pytest.approx(shown["finished"] - shown["started"])
    assert value(found, "intarsia_queue_depth") == 0


def test_a_job_that_is_cancelled_twice_is_counted_once(narrow, gate, job_fields):
    jobs = [narrow.client.post("/jobs", json=job_fields | {"seed": seed}).json() for seed in range(8)]
    gate.wait_for(1)
    last = jobs[-1]
    assert narrow.client.get(last["url"]).json()["state"] == "queued"
    depth = value(read(narrow), "intarsia_queue_depth")
    assert depth == 2, "of eight jobs six are taken: two for each slot, and two that are decoded"

    narrow.services.dispatcher.cancel(last["id"])
    narrow.services.dispatcher.cancel(last["id"])
    found = read(narrow)
    assert value(found, "intarsia_jobs_ended_total", endpoint="jobs", state="cancelled") == 1
    assert value(found, "intarsia_job_run_seconds_count", endpoint="jobs") is None, "it never ran"
    assert value(found, "intarsia_queue_depth") == 1


def test_batch_fill_is_the_share_of_the_room_that_was_used(narrow, gate, job_fields):
    gate.open()
    one = narrow.client.post("/jobs", json=job_fields).json()
    ended(narrow.client, one)
    found = read(narrow)
    assert value(found, "intarsia_evaluations_total") == value(found, "intarsia_lane_rows_total") == 4
    assert value(found, "intarsia_batch_fill") == 0.5

    two = narrow.client.post("/jobs", json=job_fields | {"samples": 2}).json()
    ended(narrow.client, two)
    found = read(narrow)
    assert value(found, "intarsia_evaluations_total") == 8
    assert value(found, "intarsia_lane_rows_total") == 12
    assert value(found, "intarsia_lane_slots_total") == 16
    assert value(found, "intarsia_batch_fill") == 0.75


def test_requests_are_counted_by_route_and_never_by_address(server, job_fields):
    for number, odd in enumerate(("PROPFIND", "SEARCH", "MKCOL", "LOCK", "UNLOCK")):
        server.client.get(f"/jobs/{number}?key=secret-key-1")
        server.client.get(f"/nothing/{number}/secret-key-1")
        server.client.request(odd, "/healthz")
    server.client.post("/jobs", json=job_fields | {"prompt": "secret-prompt"}, headers={"key": "secret-key-1"})
    text = server.client.get("/metrics").text
    found = samples(text)

    count = "intarsia_http_requests_total"
    assert value(found, count, route="/jobs/{job_id}", method="GET", status="404") == 5
    assert value(found, count, route="none", method="GET", status="404") == 5
    assert value(found, count, route="/jobs", method="POST", status="201") == 1
    assert (
        sum(number for (name, labels), number in found.items() if name == count and ("method", "other") in labels) == 5
    )
    assert "secret" not in text


def test_refusals_and_webhooks_are_counted_by_our_words():
    metrics = Metrics(dict)
    for reason in ("rate", "rate", "body_size"):
        metrics.refused(reason)
    metrics.webhook("delivered")
    found = samples(metrics.text().decode())
    assert value(found, "intarsia_refusals_total", reason="rate") == 2
    assert value(found, "intarsia_refusals_total", reason="body_size") == 1
    assert value(found, "intarsia_webhooks_total", result="delivered") == 1


def test_two_servers_in_one_process_count_for_themselves():
    first, second = Metrics(dict), Metrics(dict)
    first.refused("rate")
    assert value(samples(second.text().decode()), "intarsia_refusals_total", reason="rate") is None


def test_ends_are_counted_from_many_threads():
    metrics = Metrics(dict)
    jobs = [Job(id=number, endpoint="jobs", state="done", created=1, started=2, finished=5) for number in range(400)]
    start = threading.Barrier(8)

    def count() -> None:
        start.wait()
        for job in jobs:
            metrics.job_ended(job)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = samples(metrics.text().decode())
    assert value(found, "intarsia_jobs_ended_total", endpoint="jobs", state="done") == 400
    assert value(found, "intarsia_job_run_seconds_sum", endpoint="jobs") == 400 * 3


def test_a_job_that_is_queued_again_has_not_ended():
    metrics = Metrics(dict)
    metrics.job_ended(Job(id=1, endpoint="jobs", state="queued", created=time.time()))
    assert value(samples(metrics.text().decode()), "intarsia_jobs_ended_total", endpoint="jobs", state="queued") is None


def test_peak_memory_is_shown_where_it_is_known():
    metrics = Metrics(dict)
    assert value(samples(metrics.text().decode()), "intarsia_device_memory_peak_bytes") is None
    metrics.watch_engines(lambda: {"peak_bytes": 123.0})
    assert value(samples(metrics.text().decode()), "intarsia_device_memory_peak_bytes") == 123
