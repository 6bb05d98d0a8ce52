"""While a job runs: queue, steps, previews, cancelling; and what goes wrong. On the null backend, held at a gate."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from intarsia.server.http.keys_editing import add_key
from intarsia.server.settings import EngineSettings
from tests.page.workbench import Workbench, png
from tests.server.killed import ServerProcess
from tests.server.running import Running, running

pytestmark = pytest.mark.slow  # a minute in all; painting and running are quick tests


def masked(tab: Workbench, photo: bytes, **settings: object) -> Workbench:
    """With a picture and a mask."""
    tab.open(photo)
    tab.brush(30)
    tab.stroke((50, 40), (80, 50))
    tab.settings(**{"prompt": "a cat", "steps": 8, "strength": 1, "scheduler": "EulerDiscreteScheduler", **settings})
    return tab


@pytest.fixture
def narrow(gate: object, tmp_path: Path) -> Iterator[Running]:
    """A held server that runs few jobs at once and queues two."""
    with running(tmp_path / "data", engine=EngineSettings(backend="null", slots=1), queue=2) as opened:
        try:
            yield opened
        finally:
            gate.open()  # type: ignore[attr-defined]


def test_steps_time_left_and_previews_are_shown_as_they_come(open_tab, held, gate, photo):
    tab = masked(open_tab(held), photo)
    tab.at("#run").click()
    gate.wait_for(1)
    tab.page.wait_for_selector("#running:not([hidden])")
    gate.let(3)
    tab.shows("#progress-line", re.compile(r"^Step [23] of 8, about .* left$"))
    assert 0 < float(tab.at("#progress-bar").get_attribute("value") or 0) < 1
    expect(tab.at("#veil-canvas")).to_be_hidden()

    # The preview lies in the masked place, and nowhere else.
    tab.page.wait_for_timeout(100)
    previewed = np.asarray(tab.pixel("#picture-canvas", (65.5, 45.5)))
    tab.at("#cancel").click()
    expect(tab.at("#veil-canvas")).to_be_visible()
    tab.page.wait_for_timeout(100)
    assert (previewed != np.asarray(tab.pixel("#picture-canvas", (65.5, 45.5)))).any()


def test_cancelling_is_at_once_and_stops_the_job(open_tab, held, gate, photo):
    tab = masked(open_tab(held), photo)
    tab.at("#run").click()
    gate.wait_for(1)
    tab.at("#cancel").click()
    assert tab.seen("#run-error") == "Cancelled"
    assert tab.at("#run").is_visible()
    gate.open()
    job = ended(held)
    assert job["state"] == "cancelled"


def ended(server: Running) -> dict[str, object]:
    """The newest job, once it has ended."""
    for _ in range(200):
        job: dict[str, object] = server.client.get("/jobs?limit=1").json()["jobs"][0]
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(0.05)
    raise AssertionError("the job did not end")


def test_a_full_queue_is_said_in_the_server_s_words_and_the_place_in_it_is_shown(
    open_tab, narrow, gate, photo, job_form
):
    for _ in range(5):
        assert narrow.client.post("/jobs", **job_form).status_code == 201
    gate.wait_for(1)
    tab = masked(open_tab(narrow), photo)
    tab.at("#run").click()
    tab.shows("#progress-line", re.compile(r"^Position 2 in the queue"))
    other = masked(open_tab(narrow), photo)
    other.at("#run").click()
    assert other.seen("#run-error").startswith("2 jobs are queued, which is as many as this server takes")
    tab.at("#cancel").click()
    assert tab.seen("#run-error") == "Cancelled"


@pytest.fixture
def job_form(photo: bytes) -> dict[str, object]:
    """A job of another client, as arguments of a request."""
    mask = np.zeros((96, 128), np.uint8)
    mask[30:60, 30:60] = 255
    files = {"init_image": ("a.png", photo, "image/png"), "mask_image": ("b.png", png(mask), "image/png")}
    return {"files": files, "data": {"request": '{"steps": 4}'}}


def test_a_reload_keeps_image_mask_and_settings_and_finds_the_job(open_tab, held, gate, photo, tmp_path):
    tab = masked(open_tab(held), photo, guidance_scale=3)
    mask = tab.mask(tmp_path)
    tab.at("#run").click()
    gate.let(2)
    tab.load()
    np.testing.assert_array_equal(tab.mask(tmp_path), mask)
    assert tab.at("#field-guidance_scale").input_value() == "3"
    assert tab.at("#prompt").input_value() == "a cat"
    tab.at("#cancel").wait_for(state="visible")  # once the server has said that the job runs
    gate.open()
    tab.wait_for_result()
    assert len(held.client.get("/jobs").json()["jobs"]) == 1


def test_the_browser_asks_before_it_leaves_a_mask_that_is_not_written(tab, photo, tmp_path):
    asked = []
    tab.page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    tab.open(photo)
    tab.brush(16)
    tab.stroke((40, 40))
    with tab.page.expect_event("dialog"):
        tab.page.evaluate("setTimeout(() => location.reload())")
    assert asked == ["beforeunload"]
    assert tab.mask(tmp_path)[40, 40] == 255  # the person stayed

    tab.wait_until_written()
    tab.load()
    assert asked == ["beforeunload"]
    assert tab.mask(tmp_path)[40, 40] == 255


def test_a_closed_tab_is_taken_up_by_the_next_one_and_two_tabs_have_their_own(open_tab, held, gate, photo, tmp_path):
    first = masked(open_tab(held), photo)
    mask = first.mask(tmp_path)
    first.at("#run").click()
    gate.wait_for(1)
    second = open_tab(held, beside=first)
    assert second.at("#empty").is_visible()
    second.open(png(np.full((64, 64, 3), 90, np.uint8)), "other.png")
    first.wait_until_written()
    second.wait_until_written()
    first.page.close()
    third = open_tab(held, beside=second)
    np.testing.assert_array_equal(third.mask(tmp_path), mask)
    gate.open()
    third.wait_for_result()
    assert second.image_size == (64, 64)


def test_a_server_that_restarts_goes_on_with_the_job(open_tab, photo, tmp_path):
    environment = {"INTARSIA_NULL_STEP_SECONDS": "0.4"}
    with ServerProcess(tmp_path / "data", "--null", environment=environment) as server:
        tab = masked(open_tab(server.url), photo, steps=12)
        tab.at("#run").click()
        tab.shows("#progress-line", re.compile(r"^Step [2-9] "))
        server.kill()
        tab.shows("#progress-line", re.compile(r"connection to the server is lost"))
        server.start()
        tab.wait_for_result()


def test_a_server_that_is_gone_is_said_and_nothing_is_lost(open_tab, photo, tmp_path):
    with ServerProcess(tmp_path / "data", "--null") as server:
        tab = masked(open_tab(server.url), photo)
        mask = tab.mask(tmp_path)
        server.kill()
        tab.at("#run").click()
        tab.shows("#progress-line", re.compile("cannot be reached"))
        tab.page.wait_for_selector("#run-error:not([hidden])", timeout=20_000)
        assert "your mask is safe" in tab.seen("#run-error")
        np.testing.assert_array_equal(tab.mask(tmp_path), mask)


def test_a_missing_key_is_asked_for_and_then_used(open_tab: Callable[..., Workbench], photo, tmp_path):
    key = add_key(tmp_path / "keys.txt", "somebody")
    with running(tmp_path / "data", keys=tmp_path / "keys.txt") as server:
        tab = open_tab(server)
        assert tab.seen("#key-error") == "API key is required"
        tab.at("#key").fill("wrong")
        tab.at("#key-row button").click()
        assert tab.seen("#key-error") == "Invalid API key"
        tab.at("#key").fill(key)
        tab.at("#key-row button").click()
        tab.page.wait_for_selector("#key-row", state="hidden")
        tab.page.wait_for_selector("#field-steps", state="attached")
        masked(tab, photo)
        tab.paint()


def test_a_file_that_is_no_image_is_named(open_tab, held):
    tab = open_tab(held)
    for name, content in (("notes.png", b"this is no picture"), ("cut.png", b"\x89PNG\r\n\x1a\nnot at all")):
        tab.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
        tab.shows("#picture-error", f"{name} is no picture that can be read here: JPEG, PNG and WebP can.")


def test_an_empty_mask_and_no_image_are_said_where_they_belong(open_tab, held, photo):
    tab = open_tab(held)
    tab.at("#run").click()
    assert tab.seen("#picture-error") == "Open a picture first."
    tab.open(photo)
    tab.at("#run").click()
    assert tab.seen("#mask-error").endswith("the mask is empty.")
    tab.stroke((50, 50))
    assert tab.at("#mask-error").is_hidden()


def test_a_image_above_the_limit_is_said_in_the_server_s_words(open_tab, tmp_path, photo):
    engine = EngineSettings(backend="null", max_pixels=5000)
    with running(tmp_path / "data", engine=engine) as server:
        tab = masked(open_tab(server), photo)
        tab.at("#run").click()
        assert "init_image" in tab.seen("#picture-error")


def test_a_job_that_fails_says_why(open_tab, held, gate, photo, monkeypatch):
    from intarsia.backends.null import NullSession

    def broken(session: object, steps: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(NullSession, "advance", broken)
    tab = masked(open_tab(held), photo)
    tab.at("#run").click()
    assert tab.seen("#run-error").startswith("Failed: ")
