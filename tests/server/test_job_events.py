"""A job's events over a real server: their order, previews, coming back, and how a stream ends."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia.engine.result import Progress
from intarsia.server.engines import host_messages
from intarsia.server.engines.events import JobEvent, JobEvents
from intarsia.server.engines.previews import PREVIEW_EVERY, Preview
from intarsia.server.routes import job_events
from intarsia.server.routes.job_events import Seen
from intarsia.server.settings import EngineSettings
from tests.server.event_stream import ended, following
from tests.server.running import Running, running
from tests.server.step_gate import StepGate

STEPS = [f"step-{number}-0" for number in range(5)]


def posted(server: Running, fields: dict[str, Any], preview_every: int = 0) -> dict[str, Any]:
    response = server.client.post("/jobs", json=fields, params={"preview_every": preview_every})
    assert response.status_code == 201, response.text
    return response.json()


@dataclass(frozen=True)
class Drawn(Progress):
    """A step that can be shown."""

    has_preview: bool = True

    def preview(self, sample: int = 0) -> Image.Image:
        return Image.new("RGB", (64, 48), (200, 10 * self.step, 100 * sample))


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


def rest_of_steps(events: Iterable[Any]) -> list[str]:
    """The ids of steps, which may be left out where they follow each other fast, but never repeat."""
    numbers = [event.data["step"] for event in events if event.name == "step"]
    assert numbers == sorted(set(numbers))
    return [f"step-{number}-0" for number in numbers]


@pytest.mark.parametrize(
    ("seen", "first"),
    [("", 2), ("queued-3", 2), ("step-0-0", 2), ("step-1-0", 2), ("step-2-0", 3), ("nonsense", 2)],
)
def test_whoever_comes_back_gets_what_is_new(held, gate, job_fields, seen, first):
    job = posted(held, job_fields)
    gate.let(2)
    with following(held.client, job["events_url"], seen) as events:
        if first == 3:
            gate.let(1)
        assert next(events).id == f"step-{first}-0"


def test_a_restart_repeats_no_step_that_was_seen(gate, tmp_path, job_fields):
    with running(tmp_path / "data") as first:
        job = posted(first, job_fields)
        gate.let(2)
        with following(first.client, job["events_url"]) as events:
            assert next(events).id == "step-2-0"
        open_at_close(gate, first.services.host._engine)

    gate.close()
    with running(tmp_path / "data") as second:
        url = f"{second.url}/jobs/{job['id']}/events"
        with following(second.client, url, "step-2-0") as events:
            gate.let(3)  # it begins again, so the first two have been seen
            assert next(events).id == "step-3-0"
            gate.open()
            assert [event.id for event in events] == ["step-4-0", "done"]


def open_at_close(gate: StepGate, engine: intarsia.Engine) -> None:
    """Let the evaluation under way end once its job has been stopped, so that the engine can be closed."""
    close = engine.close

    def open_and_close(cancel: bool = False) -> None:
        gate.open()
        close(cancel)

    engine.close = open_and_close


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
        assert next(events).id == "step-0-0"
        held.client.delete(job["url"])
        gate.let(0)
        gate.open()
        *_, last = events
    assert (last.name, last.id, last.data["state"]) == ("cancelled", "cancelled", "cancelled")


def test_a_failed_job_ends_its_stream_with_the_reason(server, job_fields, monkeypatch):
    def fail(session: object, states: object) -> None:
        raise intarsia.OutOfMemory("no memory")

    monkeypatch.setattr("intarsia.backends.null.NullSession.decode", fail)
    with following(server.client, posted(server, job_fields)["events_url"]) as events:
        *_, last = events
    assert (last.name, last.data["error"]) == ("failed", {"message": "no memory", "kind": "memory"})


def test_previews_come_with_steps_and_show_every_sample(held, gate, job_fields, monkeypatch):
    monkeypatch.setattr("intarsia.engine.ticket.Progress", Drawn)
    job = posted(held, job_fields | {"samples": 2})
    gate.wait_for(1)
    with following(held.client, job["events_url"]) as events:
        assert next(events).id == "step-0-0"
        gate.let(1)
        step, preview = next(events), next(events)
        gate.open()
        assert list(events)[-1].name == "done"
    assert (step.id, preview.name, preview.id) == ("step-1-0", "preview", "step-1-1")
    assert (preview.data["step"], preview.data["steps"]) == (1, 4)

    for sample, text in enumerate(preview.data["images"]):
        head, _, data = text.partition(",")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (head, image.size) == ("data:image/webp;base64", (64, 48))
        np.testing.assert_allclose(np.asarray(image)[20, 20], (200, 10, 100 * sample), atol=6)  # WebP's loss


def test_the_engines_own_previews_arrive(held, gate, job_fields):
    """The null backend shows the color of the finished image, under the mask alone, one pixel for each latent cell."""
    job = posted(held, job_fields | {"samples": 2}, preview_every=3)
    gate.let(3)
    with following(held.client, job["events_url"]) as events:
        preview = next(event for event in events if event.name == "preview")
        gate.open()
        assert list(events)[-1].name == "done"
    assert (preview.data["step"], preview.data["steps"], len(preview.data["images"])) == (3, 4, 2)
    one, other = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))).convert("RGB"), np.int16)
        for text in preview.data["images"]
    )
    assert one.shape == other.shape
    assert np.abs(one - other).max() > 20, "samples have colors of their own"


def test_who_comes_back_gets_the_latest_preview_and_only_once(held, gate, job_fields):
    job = posted(held, job_fields)
    gate.let(3)
    events = held.services.events
    for number in (1, 3, 2):  # made by several threads, so not in their order
        events.publish(JobEvent(job_id=job["id"], kind="preview", preview=Preview(number, 4, (f"image {number}",))))

    def first(seen: str | None) -> list[tuple[str, str]]:
        with following(held.client, job["events_url"], seen) as stream:
            held_back = [next(stream)]
            if held_back[0].name == "step":
                held_back.append(next(stream))
            return [(event.name, event.id) for event in held_back]

    assert first("step-1-1") == [("step", "step-3-1"), ("preview", "step-3-3")]
    assert first("step-3-1") == [("preview", "step-3-3")]
    with following(held.client, job["events_url"], "step-3-3") as stream:
        gate.open()
        assert [event.name for event in stream if event.name != "step"] == ["done"]
    assert events.latest_preview(job["id"]) is None, "it is kept for as long as the job runs"


def test_a_job_is_run_with_the_previews_that_were_asked_for(server, job_fields, monkeypatch):
    asked, submit = [], intarsia.Engine.submit

    def noting(engine: intarsia.Engine, request: intarsia.InpaintRequest, **options: Any) -> Any:
        asked.append(options["preview_every"])
        return submit(engine, request, **options)

    monkeypatch.setattr(intarsia.Engine, "submit", noting)
    for query in ("", "?preview_every=2", "?preview_every=0"):
        ended(server.client, server.client.post(f"/jobs{query}", json=job_fields).json())
    assert asked == [PREVIEW_EVERY, 2, None]


def test_a_client_that_hangs_up_frees_its_place_and_stops_nothing(held, gate, job_fields, monkeypatch):
    left = threading.Event()
    original = JobEvents.subscribe

    def subscribe(self: Any, job_id: int) -> Any:
        subscription = original(self, job_id)
        leave = subscription.__exit__

        class Noting:
            def __enter__(self) -> Any:
                return subscription.__enter__()

            def __exit__(self, *error: object) -> None:
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


def test_a_server_that_is_about_to_end_answers_who_waits(held, gate, job_fields):
    body = {key: value for key, value in job_fields.items() if key != "scheduler"}
    body = body | {"model_id": "intarsia-tiny"}
    replies: list[dict[str, Any]] = []
    thread = threading.Thread(
        target=lambda: replies.append(held.client.post("/api/v6/images/inpaint", json=body).json())
    )
    thread.start()
    gate.wait_for(1)
    held.services.stop_waiting()
    thread.join(10)  # of the 20 seconds that it would wait
    held.services.is_closing = False
    assert [reply["status"] for reply in replies] == ["processing"]


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
    with following(held.client, job["events_url"]) as events:
        next(events)
        for step in range(1, 1000):
            held.services.events.publish(JobEvent(job_id=job["id"], kind="step", progress=Progress(step, 1000)))
        gate.open()
        rest = list(events)
    numbers = [event.data["step"] for event in rest[:-1]]
    assert numbers == sorted(set(numbers))
    assert rest[-1].name == "done"


@pytest.mark.parametrize(
    "seen",
    [
        Seen(position=12),
        Seen(step=0),
        Seen(step=10, preview=5),
        *(Seen(end=state) for state in ("done", "failed", "cancelled")),
    ],
)
def test_an_id_says_what_has_been_seen(seen):
    assert Seen.of(seen.event_id) == seen


def test_a_job_that_is_queued_again_is_not_said_to_have_moved_back():
    assert [Seen(position=2).lacks_position(place) for place in (1, 2, 3)] == [True, False, False]
    assert not Seen(step=0).lacks_position(1)


def test_a_preview_comes_through_the_pipe_of_an_engines_process():
    preview = Preview(3, 20, ("data:image/webp;base64,AAAA", "data:image/webp;base64,BBBB"))
    message = host_messages.decode(host_messages.encode(host_messages.Previewed.of(7, preview)))
    assert isinstance(message, host_messages.Previewed)
    assert (message.job_id, message.preview) == (7, preview)


@pytest.mark.parametrize("text", ["", "x", "step-1", "step--1-0", "step-1-0 ", "queued-", "queued-" + "9" * 40])
def test_an_id_that_is_none_of_ours_says_nothing(text):
    assert Seen.of(text) == Seen()


@pytest.mark.parametrize("every", ["-1", "151", "x"])
def test_an_interval_that_means_nothing_is_refused(idle, every):
    response = idle.client.post("/jobs", params={"preview_every": every}, json={})
    assert (response.status_code, response.json()["field"]) == (400, "preview_every")
