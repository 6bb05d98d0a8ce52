"""A job's events over a real server: their order, previews, coming back, and how a stream ends."""

from __future__ import annotations

import base64
import io
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia.engine.result import Progress
from intarsia.server import job_events
from intarsia.server.events import JobEvent, JobEvents
from intarsia.server.job_events import rank_of
from intarsia.server.settings import EngineSettings
from tests.server.event_stream import following
from tests.server.running import running

STEPS = [f"step-{number}" for number in range(5)]


def posted(server, fields):
    response = server.client.post("/jobs", json=fields)
    assert response.status_code == 201, response.text
    return response.json()


@dataclass(frozen=True)
class Drawn(Progress):
    """A step that can be shown."""

    def preview(self):
        return [Image.fromarray(np.full((600, 800, 3), (200, 10 * self.step, 0), np.uint8))]


@pytest.fixture
def drawing(monkeypatch):
    """Engines whose steps have previews."""
    monkeypatch.setattr("intarsia.engine.ticket.Progress", Drawn)


def test_events_come_in_order_and_the_last_one_is_the_finished_job(held, gate, job_fields):
    job = posted(held, job_fields)
    gate.wait_for(1)
    with following(held.client, job["events_url"]) as events:
        seen = [next(events)]
        for _ in range(3):
            gate.let(1)
            seen.append(next(events))
        gate.open()
        seen += events
    assert [event.id for event in seen] == [*STEPS, "done"]
    assert [event.data for event in seen[:-1]] == [{"step": number, "steps": 4} for number in range(5)]
    assert seen[-1].data == held.client.get(job["url"]).json()


def test_a_queued_job_says_its_place_whenever_it_moves_up(gate, tmp_path, job_fields):
    with running(tmp_path / "data", engine=EngineSettings(backend="null", slots=1)) as server:
        posted(server, job_fields)
        gate.wait_for(1)
        jobs = [posted(server, job_fields | {"seed": seed}) for seed in range(5)]
        with following(server.client, jobs[-1]["events_url"]) as events:
            first = next(events)
            server.client.delete(jobs[-2]["url"])
            second = next(events)
            gate.open()
            rest = list(events)
    assert [(event.name, event.data["position"]) for event in (first, second)] == [("queued", 2), ("queued", 1)]
    assert [event.id for event in rest] == [*rest_of_steps(rest), "done"]


def rest_of_steps(events):
    """The ids of steps, which may be left out where they follow each other fast, but never repeat."""
    numbers = [event.data["step"] for event in events if event.name == "step"]
    assert numbers == sorted(set(numbers))
    return [f"step-{number}" for number in numbers]


@pytest.mark.parametrize(
    ("seen", "first"),
    [("", "step-2"), ("queued-3", "step-2"), ("step-0", "step-2"), ("step-1", "step-2"), ("step-2", "step-3")],
)
def test_whoever_comes_back_gets_what_is_new(held, gate, job_fields, seen, first):
    job = posted(held, job_fields)
    gate.let(2)
    with following(held.client, job["events_url"], seen) as events:
        if first == "step-3":
            gate.let(1)
        assert next(events).id == first


def test_a_restart_repeats_no_step_that_was_seen(gate, tmp_path, job_fields):
    with running(tmp_path / "data") as first:
        job = posted(first, job_fields)
        gate.let(2)
        with following(first.client, job["events_url"]) as events:
            assert next(events).id == "step-2"
        gate.allowed = 10**6  # the evaluation under way ends, and so the server can
        gate.open()

    gate.is_open, gate.allowed = False, gate.arrived
    with running(tmp_path / "data") as second:
        gate.wait_for(gate.allowed + 1)
        url = f"{second.url}/jobs/{job['id']}/events"
        with following(second.client, url, "step-2") as events:
            gate.open()
            rest = list(events)
    assert [event.id for event in rest] == ["step-3", "step-4", "done"]


def test_who_has_seen_the_end_is_not_called_again(server, job_fields):
    job = posted(server, job_fields)
    with following(server.client, job["events_url"]) as events:
        *_, last = events
    response = server.client.get(job["events_url"], headers={"Last-Event-ID": last.id})
    assert (last.id, response.status_code, response.content) == ("done", 204, b"")


def test_a_cancelled_job_ends_its_stream(held, gate, job_fields):
    job = posted(held, job_fields)
    gate.wait_for(1)
    with following(held.client, job["events_url"]) as events:
        assert next(events).id == "step-0"
        held.client.delete(job["url"])
        gate.let(0)
        gate.open()
        *_, last = events
    assert (last.name, last.id, last.data["state"]) == ("cancelled", "cancelled", "cancelled")


def test_a_failed_job_ends_its_stream_with_the_reason(server, job_fields, monkeypatch):
    def fail(session, states):
        raise intarsia.OutOfMemory("no memory")

    monkeypatch.setattr("intarsia.backends.null.NullSession.decode", fail)
    with following(server.client, posted(server, job_fields)["events_url"]) as events:
        *_, last = events
    assert (last.name, last.data["error"]) == ("failed", {"message": "no memory", "kind": "memory"})


def test_previews_are_small_images_every_few_steps(drawing, held, gate, job_fields):
    job = posted(held, job_fields | {"steps": 10})  # 7 evaluations
    gate.wait_for(1)
    with following(held.client, job["events_url"], preview_every=3) as events:
        seen = [next(events)]
        for _ in range(6):
            gate.let(1)
            seen.append(next(events))
            if seen[-1].data["step"] % 3 == 0:
                seen.append(next(events))
        gate.open()
        seen += events
    ids = [event.id for event in seen]
    assert [event_id for event_id in ids if event_id.startswith("preview")] == ["preview-3", "preview-6"]
    assert ids.index("preview-3") == ids.index("step-3") + 1

    preview = seen[ids.index("preview-6")].data
    head, _, data = preview["images"][0].partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, image.size, preview["step"]) == ("data:image/webp;base64", (384, 288), 6)
    np.testing.assert_allclose(np.asarray(image).mean(axis=(0, 1)), (200, 60, 0), atol=4)  # WebP's loss


def test_no_preview_is_drawn_for_who_wants_none(drawing, held, gate, job_fields, monkeypatch):
    monkeypatch.setattr(Drawn, "preview", lambda self: pytest.fail("a preview was drawn"))
    job = posted(held, job_fields)
    gate.wait_for(1)
    with following(held.client, job["events_url"], preview_every=0) as events:
        gate.open()
        assert {event.name for event in events} == {"step", "done"}


def test_a_client_that_hangs_up_frees_its_place_and_stops_nothing(held, gate, job_fields, monkeypatch):
    left = threading.Event()
    original = JobEvents.subscribe

    def subscribe(self, job_id):
        subscription = original(self, job_id)
        leave = subscription.__exit__

        class Noting:
            def __enter__(self):
                return subscription.__enter__()

            def __exit__(self, *error):
                leave(*error)
                left.set()

        return Noting()

    monkeypatch.setattr(JobEvents, "subscribe", subscribe)
    job = posted(held, job_fields)
    gate.wait_for(1)
    with following(held.client, job["events_url"]) as events:
        next(events)
        assert held.services.events.readers == 1
    assert left.wait(10)
    assert held.services.events.readers == 0

    gate.open()
    with following(held.client, job["events_url"]) as events:
        *_, last = events
    assert last.name == "done"


def test_a_server_that_is_about_to_end_ends_its_streams(held, gate, job_fields):
    job = posted(held, job_fields)
    gate.wait_for(1)
    with following(held.client, job["events_url"]) as events:
        next(events)
        held.services.is_closing = True
        assert list(events) == []
    held.services.is_closing = False
    assert held.client.get(job["url"]).json()["state"] == "running"


def test_a_quiet_stream_says_that_it_is_still_there(held, gate, job_fields, monkeypatch):
    monkeypatch.setattr(job_events, "HEARTBEAT", 0.0)
    job = posted(held, job_fields)
    gate.wait_for(1)
    with held.client.stream("GET", job["events_url"]) as response:
        lines = response.iter_lines()
        assert next(lines) == "retry: 2000"
        assert next(line for line in lines if line.startswith(":")) == ": still there"


def test_a_reader_who_is_slow_misses_steps_and_never_the_end(held, gate, job_fields):
    job = posted(held, job_fields)
    gate.wait_for(1)
    with following(held.client, job["events_url"], preview_every=0) as events:
        next(events)
        for step in range(1, 1000):
            held.services.events.publish(JobEvent(job_id=job["id"], kind="step", progress=Progress(step, 1000)))
        gate.open()
        rest = list(events)
    numbers = [event.data["step"] for event in rest[:-1]]
    assert numbers == sorted(set(numbers))
    assert rest[-1].name == "done"


def test_ids_are_in_the_order_in_which_events_come():
    ids = ["", "queued-12", "queued-1", "step-0", "step-1", "preview-1", "step-2", "step-10", "preview-10", "done"]
    ranks = [rank_of(event_id) for event_id in ids]
    assert ranks == sorted(set(ranks))
    assert rank_of("done") == rank_of("failed") == rank_of("cancelled")
    assert {rank_of(text) for text in ("x", "step-", "step--1", "step-1 ", "queued", "step-" + "9" * 40)} == {
        rank_of("")
    }


@pytest.mark.parametrize("every", ["-1", "151", "x"])
def test_an_interval_that_means_nothing_is_refused(idle, every):
    response = idle.client.get("/jobs/1/events", params={"preview_every": every})
    assert (response.status_code, response.json()["field"]) == (400, "preview_every")
