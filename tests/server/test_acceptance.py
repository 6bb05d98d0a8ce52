"""What is accepted is checked, fixed and kept, so that it gives the library's image whenever it is run."""

from __future__ import annotations

import dataclasses
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sqlalchemy", reason="needs the extra serve")

import intarsia
from intarsia.errors import RequestError, WeightsError
from intarsia.images.access import Access
from intarsia.images.metadata import read_metadata
from intarsia.registry.registry import Registry
from intarsia.server.acceptance import Acceptance
from intarsia.server.admission import RecentlyFull
from intarsia.server.idempotency import Idempotency, KeyReused
from intarsia.server.settings import shown_seconds
from intarsia.server.store.files import LocalFiles, output_names
from intarsia.server.store.jobs import Job
from intarsia.server.store.store import QueueFull, Store
from intarsia.server.store.stored_request import stored_request
from intarsia.server.store.webhook_addresses import check_webhook
from tests.server.killed import documented_body
from tests.server.running import Running, running


@pytest.fixture
def acceptance(tmp_path: Path) -> Iterator[Acceptance]:
    store = Store(tmp_path / "jobs.sqlite3")
    files, access = LocalFiles(tmp_path), Access(allow_paths=False)
    yield Acceptance(registry=Registry(), files=files, store=store, queue=3, share=3, access=access)
    store.close()


def _accepted(acceptance: Acceptance, body: object, endpoint: str | None = None, **options: Any) -> Job:
    """The stored job of a documented request."""
    return acceptance.accept(acceptance.documented(body, endpoint, **options))


def _image(server: Running, url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(server.client.get(url).content)))


def test_a_seed_is_drawn_once_and_stored(acceptance):
    first, second = (_accepted(acceptance, documented_body(1, seed=None)) for _ in range(2))
    assert first.request["seed"] != second.request["seed"]
    assert first.meta["seed"] == first.request["seed"]
    assert stored_request(first, acceptance.files).seed == first.request["seed"]


def test_what_is_refused_leaves_nothing_behind(acceptance, tmp_path):
    for wrong in ({"steps": 0}, {"mask_image": "bm8gaW1hZ2U="}, {"model_id": "none-such"}):
        with pytest.raises((RequestError, WeightsError)):
            _accepted(acceptance, documented_body(1, **wrong))
    assert acceptance.store.counts() == {}
    assert list((tmp_path / "inputs").iterdir()) == []


def test_a_full_queue_is_found_before_anything_is_read(acceptance):
    for number in range(3):
        _accepted(acceptance, documented_body(number))
    with pytest.raises(QueueFull):
        _accepted(acceptance, documented_body(9, steps="nothing that could be read"))


def test_a_queue_with_plenty_of_room_is_looked_at_once_for_many_requests(acceptance, monkeypatch):
    clock = [0.0]
    full = RecentlyFull(0.1, lambda: clock[0])
    acceptance = dataclasses.replace(acceptance, queue=25, share=25, full=full)
    looks = []
    check_room = acceptance.store.check_room
    monkeypatch.setattr(
        acceptance.store, "check_room", lambda *args, **more: looks.append(1) or check_room(*args, **more)
    )
    for number in range(10):
        _accepted(acceptance, documented_body(number))
    assert len(looks) == 1  # the first one; then each that is stored says how much room is left: 24 down to 16

    _accepted(acceptance, documented_body(10))
    assert len(looks) == 2
    clock[0] = 1.0
    for number in range(11, 25):
        _accepted(acceptance, documented_body(number))
    with pytest.raises(QueueFull):
        _accepted(acceptance, documented_body(99, steps="nothing that could be read"))


def test_a_job_says_what_was_ahead_of_it_as_it_was_accepted(acceptance):
    jobs = [_accepted(acceptance, documented_body(number)) for number in range(3)]
    rows = [job.lane_rows for job in jobs]
    assert [job.rows_ahead for job in jobs] == [0, rows[0], rows[0] + rows[1]]
    assert acceptance.store.lane_rows_before(jobs[2].id)[1] == jobs[2].rows_ahead
    assert acceptance.store.get(jobs[2].id).rows_ahead is None  # as it would not be true for long


def test_images_that_were_accepted_before_are_not_decoded_again(acceptance, monkeypatch):
    first = _accepted(acceptance, documented_body(1))
    monkeypatch.setattr("intarsia.engine.request_images.open_image", None)
    again = _accepted(acceptance, documented_body(1, prompt="another"))
    assert again.request["init_image"] == first.request["init_image"]
    assert stored_request(again, acceptance.files).prompt == "another"


def test_one_owner_has_no_more_of_the_queue_than_the_share(acceptance):
    acceptance = dataclasses.replace(acceptance, share=2)
    for number in range(2):
        _accepted(acceptance, documented_body(number), owner="ann")
    with pytest.raises(QueueFull, match="2 jobs of this key are queued"):
        _accepted(acceptance, documented_body(2), owner="ann")

    _accepted(acceptance, documented_body(3), owner="bob")
    with pytest.raises(QueueFull, match="3 jobs are queued"):
        _accepted(acceptance, documented_body(4), owner="bob")


def test_a_repeated_request_is_not_read_again(acceptance, monkeypatch):
    first = _accepted(acceptance, documented_body(1, key="a"), idempotency_key="once")
    monkeypatch.setattr("intarsia.server.acceptance.read", None)
    again = dict(reversed(documented_body(1, key="b").items()))  # the key is new, and the order of the fields
    assert _accepted(acceptance, again, idempotency_key="once").id == first.id


def test_another_request_with_the_key_of_an_earlier_one_is_refused(acceptance, tmp_path):
    _accepted(acceptance, documented_body(1), idempotency_key="once")
    inputs = sorted((tmp_path / "inputs").iterdir())
    for body, endpoint in ((documented_body(2), None), (documented_body(1), "realtime")):
        with pytest.raises(KeyReused, match="Idempotency-Key was used for another request"):
            _accepted(acceptance, body, endpoint, idempotency_key="once")
    assert acceptance.store.counts() == {"queued": 1}
    assert sorted((tmp_path / "inputs").iterdir()) == inputs
    assert _accepted(acceptance, documented_body(2), owner="bob", idempotency_key="once").owner == "bob"


def test_two_requests_that_come_with_one_key_at_the_same_time_are_kept_apart(acceptance, monkeypatch):
    """The second one looked for the key before the first one was stored."""
    first = _accepted(acceptance, documented_body(1), idempotency_key="once")
    monkeypatch.setattr(Store, "with_key", lambda *_: None)
    assert _accepted(acceptance, documented_body(1), idempotency_key="once").id == first.id
    with pytest.raises(KeyReused):
        _accepted(acceptance, documented_body(2), idempotency_key="once")


def test_files_of_a_form_are_a_part_of_the_request():
    one, same, other = (Idempotency.of("k", "jobs", {"init_image": data}) for data in (b"a", b"a", b"b"))
    assert one == same != other


@pytest.mark.parametrize(
    ("webhook", "reason"),
    [
        ("http://127.0.0.1/hook", "its host is not public"),
        ("http://10.1.2.3:8080/", "its host is not public"),
        ("http://2130706433/", "its host is not public"),
        ("http://[::ffff:192.168.0.1]/", "its host is not public"),
        ("http://metadata.localhost/", "its host is not public"),
        ("http://user:hidden-word@example.org/", "user name and password"),
        ("http://example.org:99999/", "the URL is not valid"),
        ("http://[::1/", "the URL is not valid"),
    ],
)
def test_a_webhook_that_could_never_be_called_is_refused_at_once(acceptance, tmp_path, webhook, reason):
    with pytest.raises(RequestError, match=f"^webhook: {reason}") as caught:
        _accepted(acceptance, documented_body(1, webhook=webhook))
    assert "hidden-word" not in str(caught.value)
    assert list((tmp_path / "inputs").iterdir()) == []


@pytest.mark.parametrize("webhook", ["https://hooks.example.org/x?y=z", "http://93.184.216.34/"])
def test_names_and_public_addresses_of_webhooks_are_looked_up_when_they_are_called(acceptance, webhook, monkeypatch):
    real = socket.getaddrinfo

    def numbers_alone(*args: Any, **options: Any) -> Any:
        assert options["flags"] == socket.AI_NUMERICHOST
        return real(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", numbers_alone)
    assert _accepted(acceptance, documented_body(1, webhook=webhook)).state == "queued"


def test_private_webhooks_are_taken_where_they_are_allowed():
    check_webhook("http://127.0.0.1:8080/hook", allow_private_urls=True)


def test_an_image_of_this_server_that_is_gone_says_what_to_do(acceptance):
    address = f"http://127.0.0.1:1/files/{output_names(1)[0]}"
    with pytest.raises(RequestError) as caught:
        _accepted(acceptance, documented_body(1, init_image=address))
    assert str(caught.value) == (
        "init_image: there is no image of this server under that address, and none could be fetched from it: images "
        "are kept for 7 days, temporary and uploaded ones for 1 day; send the image itself, or upload it again"
    )
    with pytest.raises(RequestError, match="not public"):
        _accepted(acceptance, documented_body(1, init_image="http://127.0.0.1:1/files/a.png"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90, "90 seconds"), (60, "1 minute"), (7200, "2 hours"), (86400, "1 day"), (864001, "10 days")],
)
def test_times_are_said_in_the_unit_that_fits(seconds, text):
    assert shown_seconds(seconds) == text


def test_a_key_belongs_to_one_of_the_two_apis(acceptance):
    _accepted(acceptance, documented_body(1), idempotency_key="once")
    with pytest.raises(RequestError, match="Idempotency-Key was used for a request to another API"):
        acceptance.library({"prompt": "x"}, idempotency_key="once")


@pytest.mark.parametrize("key", ["", "x" * 201, "two\nlines"])
def test_an_idempotency_key_is_short_and_printable(acceptance, key):
    with pytest.raises(RequestError, match="Idempotency-Key must be"):
        _accepted(acceptance, documented_body(1), idempotency_key=key)


def test_the_image_is_the_librarys_for_the_same_request(tmp_path):
    fields: dict[str, Any] = {
        name: value for name, value in documented_body(3).items() if name not in ("model_id", "safety_checker")
    }
    with running(tmp_path) as server, intarsia.Engine("null") as engine:
        job = server.client.post("/jobs", json=fields).json()
        with server.client.stream("GET", f"/jobs/{job['id']}/events") as events:
            list(events.iter_lines())  # until it is done
        [url] = server.client.get(f"/jobs/{job['id']}").json()["result"]["images"]
        expected = engine.run(intarsia.InpaintRequest(**fields))
        assert np.array_equal(_image(server, url), np.asarray(expected.images[0]))


def test_an_image_that_is_its_own_mask_is_remarked_on(tmp_path):
    body = documented_body(1)
    with running(tmp_path) as server:
        reply = server.client.post("/api/v6/images/inpaint", json={**body, "mask_image": body["init_image"]}).json()
    assert "mask_image is the very image that is repainted" in reply["tip"]


def test_the_file_says_how_it_was_made(tmp_path):
    with running(tmp_path) as server:
        reply = server.client.post("/api/v6/images/inpaint", json=documented_body(1)).json()
        file = Image.open(io.BytesIO(server.client.get(reply["output"][0]).content))
    assert read_metadata(file)["seed"] == 1
