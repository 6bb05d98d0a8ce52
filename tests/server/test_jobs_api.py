"""Our own API of jobs, over a real server: accepted, shown, listed and cancelled."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia import schedulers
from intarsia.server.http.keys_editing import add_key
from intarsia.server.settings import EngineSettings
from tests.server.event_stream import ended
from tests.server.killed import documented_body
from tests.server.running import Running, running
from tests.server.step_gate import StepGate


def posted(server: Running, fields: dict[str, Any], **headers: str) -> dict[str, Any]:
    response = server.client.post("/jobs", json=fields, headers=headers)
    assert response.status_code == 201, response.text
    return response.json()


def image_at(server: Running, url: str) -> np.ndarray:
    response = server.client.get(url)
    assert response.status_code == 200
    return np.asarray(Image.open(io.BytesIO(response.content)))


@pytest.fixture
def narrow(gate: StepGate, tmp_path: Path) -> Iterator[Running]:
    """A held server that takes four jobs from its queue; the fifth waits."""
    engine = EngineSettings(backend="null", slots=1)
    with running(tmp_path / "data", engine=engine) as opened:
        try:
            yield opened
        finally:
            gate.open()


def test_a_job_gives_the_image_that_the_library_gives(server, job_fields):
    response = server.client.post("/jobs", json=job_fields | {"samples": 2})
    job = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == job["url"] == f"{server.url}/jobs/{job['id']}"
    assert job["seed"] == 7

    done = ended(server.client, job)
    with intarsia.Engine("null") as engine:
        result = engine.run(intarsia.InpaintRequest(**job_fields, samples=2))
    for url, image in zip(done["result"]["images"], result.images, strict=True):
        np.testing.assert_array_equal(image_at(server, url), image)
    assert done["result"]["seeds"] == [7, 8]
    assert done["result"]["meta"]["steps"] == 6
    assert done["plan"] == json.loads(json.dumps(result.plan.to_dict()))
    assert server.client.get(job["url"]).json() == done


@pytest.mark.parametrize(
    "fields",
    [
        {"scheduler": "DPM++ 2M SDE Exponential", "steps": 6},
        {"spacing": "trailing", "final_sigmas_type": "sigma_min", "steps": 6},
        {"table": schedulers.table_to_json(schedulers.table("heun", 4, strength=0.75))},
    ],
    ids=["name", "settings", "table"],
)
def test_what_a_job_says_of_its_sampler_is_still_what_it_says_once_it_is_stored(server, job_fields, fields):
    asked = {name: value for name, value in job_fields.items() if name not in ("scheduler", "steps", "strength")}
    asked |= fields
    done = ended(server.client, posted(server, asked))
    with intarsia.Engine("null") as engine:
        result = engine.run(intarsia.InpaintRequest(**asked))
    assert done["plan"] == json.loads(json.dumps(result.plan.to_dict()))
    assert done["result"]["meta"] == json.loads(json.dumps(result.meta))


def test_an_image_that_is_extended_needs_no_mask(server, job_fields):
    fields = {name: value for name, value in job_fields.items() if name != "mask_image"} | {"extend": {"left": 24}}
    done = ended(server.client, posted(server, fields))
    with intarsia.Engine("null") as engine:
        result = engine.run(intarsia.InpaintRequest(**fields))
    np.testing.assert_array_equal(image_at(server, done["result"]["images"][0]), result.images[0])


def test_a_drawn_seed_is_known_before_the_job_runs_and_gives_the_image_again(server, job_fields):
    first = posted(server, job_fields | {"seed": None})
    again = posted(server, job_fields | {"seed": first["seed"]})
    one, other = (ended(server.client, job)["result"]["images"][0] for job in (first, again))
    np.testing.assert_array_equal(image_at(server, one), image_at(server, other))


@pytest.mark.parametrize("as_file", [True, False])
def test_a_form_with_files_is_the_same_request(server, job_fields, image_file, mask_file, as_file):
    rest = json.dumps({name: value for name, value in job_fields.items() if not name.endswith("_image")})
    files = {"init_image": ("a.png", image_file, "image/png"), "mask_image": ("b.png", mask_file, "image/png")}
    if as_file:
        files["request"] = ("blob", rest, "application/json")
    response = server.client.post("/jobs", files=files, data={} if as_file else {"request": rest})
    assert response.status_code == 201, response.text

    by_form, by_json = ended(server.client, response.json()), ended(server.client, posted(server, job_fields))
    assert by_form["request"] == by_json["request"]
    images = [image_at(server, job["result"]["images"][0]) for job in (by_form, by_json)]
    np.testing.assert_array_equal(*images)


def test_a_form_may_hold_images_as_text(server, job_fields):
    parts = {name: (None, job_fields[name]) for name in ("init_image", "mask_image")}
    response = server.client.post("/jobs", files=parts)
    assert response.status_code == 201, response.text


@pytest.mark.parametrize(
    ("parts", "field", "message"),
    [
        ({"prompt": (None, "a cat")}, "prompt", "prompt is not a part of this form; its parts: request, init_image"),
        ({"request": (None, "{")}, "request", "the part request is not valid JSON"),
        ({"request": (None, "[]")}, "request", "the part request must be a JSON object"),
        ({"request": (None, '{"mask_image": "x"}'), "mask_image": ("m", b"x")}, "mask_image", "both in the request"),
        ({"ip_adapter_image": ("a", b"x")}, "ip_adapter", "needs an ip_adapter with its id"),
        ({"init_image": ("a", b"x")}, "init_image", "is not an image"),
    ],
)
def test_a_form_that_is_wrong_is_refused_by_the_name_of_its_part(idle, parts, field, message):
    response = idle.client.post("/jobs", files={"mask_image": ("m", b"y"), **parts})
    assert response.status_code == 400
    assert response.json()["field"] == field
    assert message in response.json()["message"]


def _form(image: bytes, mask: bytes) -> bytes:
    """A form as bytes, whose last part is the request."""
    parts = {b'"init_image"; filename="a.png"': image, b'"mask_image"; filename="b.png"': mask, b'"request"': b"{}"}
    return b"".join(b"--x\r\nContent-Disposition: form-data; name=%b\r\n\r\n%b\r\n" % part for part in parts.items())


@pytest.mark.parametrize("end", [b"", b"--", b"--x", b"--x-", b"--y--\r\n"])
def test_a_form_without_an_end_is_refused_as_its_last_part_may_be_missing(idle, image_file, mask_file, end):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    before = idle.client.get("/jobs").json()["jobs"]
    response = idle.client.post("/jobs", content=_form(image_file, mask_file) + end, headers=headers)
    assert response.status_code == 400
    assert response.json()["field"] == "request"
    assert response.json()["message"].startswith("the form cannot be read: ")
    assert idle.client.get("/jobs").json()["jobs"] == before


@pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "utf-16", "hex", "no-such-charset"])
def test_whatever_charset_a_form_says_it_has_is_no_fault_of_the_server(server, image_file, mask_file, charset):
    headers = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    response = server.client.post("/jobs", content=_form(image_file, mask_file) + b"--x--\r\n", headers=headers)
    assert response.status_code in (201, 400), response.text


def test_a_part_that_comes_twice_is_refused(idle, image_file):
    response = idle.client.post("/jobs", files=[("init_image", ("a", image_file)), ("init_image", ("b", image_file))])
    assert (response.status_code, response.json()["message"]) == (400, "init_image is in the form twice")


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"width": 3}, "width", "between 64 and 2048"),
        ({"karras_sigmas": "perhaps"}, "karras_sigmas", "karras_sigmas must be true or false"),
        ({"loras": [{"id": "none-such"}]}, None, "LoRA not found: none-such"),
        ({"model": "none-such"}, None, "Model not found: none-such"),
        ({"sampler": "euler"}, "sampler", "sampler is not a field of a request"),
        ({"key": "secret-key-1"}, "key", "key is not a field of a request"),
        ({"init_image": {"sha256": "0" * 64}}, "init_image", "must be a URL, data URI or base64"),
        ({"init_image": "/etc/passwd"}, "init_image", "init_image"),
        ({"mask_image": None}, "mask_image", "mask_image"),
        ({"table": "/etc/passwd"}, "table", "table must be an object of JSON"),
        ({"scheduler": "euler", "eta": 0.5}, "eta", "which takes spacing and final_sigmas_type"),
    ],
)
def test_a_wrong_field_is_named_in_the_librarys_words(idle, job_fields, change, field, message):
    response = idle.client.post("/jobs", json=job_fields | change)
    reply = response.json()
    assert (response.status_code, reply["status"], reply.get("field")) == (400, "error", field)
    assert message in reply["message"]
    assert "secret-key-1" not in response.text
    assert idle.client.get("/jobs").json() == {"jobs": [], "next": None}


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(idle, body):
    response = idle.client.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["status"]) == (400, "error")


def test_an_idempotency_key_gives_the_first_job_again(server, job_fields):
    first = posted(server, job_fields, **{"Idempotency-Key": "one"})
    again = posted(server, job_fields, **{"Idempotency-Key": "one"})
    other = posted(server, job_fields, **{"Idempotency-Key": "two"})
    assert first["id"] == again["id"] != other["id"]

    refused = server.client.post("/jobs", json=job_fields | {"prompt": "another"}, headers={"Idempotency-Key": "one"})
    assert (refused.status_code, refused.json()["field"]) == (422, "Idempotency-Key")
    headers = {"Idempotency-Key": "three"}
    for body, status in ((documented_body(1), 200), (documented_body(2), 422)):
        assert server.client.post("/api/v6/images/inpaint", json=body, headers=headers).status_code == status


def test_a_queued_job_knows_its_position_and_moves_up(narrow, gate, job_fields):
    jobs = [posted(narrow, job_fields)]
    gate.wait_for(1)
    jobs += [posted(narrow, job_fields | {"seed": seed}) for seed in range(3)]
    fifth, sixth = (posted(narrow, job_fields | {"seed": seed}) for seed in (8, 9))

    shown = [narrow.client.get(job["url"]).json() for job in (fifth, sixth)]
    assert [(job["state"], job["position"]) for job in shown] == [("queued", 1), ("queued", 2)]
    assert shown[1]["eta"] > shown[0]["eta"] > 0

    cancelled = narrow.client.delete(fifth["url"]).json()
    assert (cancelled["state"], cancelled["position"]) == ("cancelled", None)
    assert narrow.client.get(sixth["url"]).json()["position"] == 1

    gate.open()
    assert ended(narrow.client, sixth)["state"] == "done"
    assert narrow.client.get(fifth["url"]).json()["state"] == "cancelled"


def test_a_running_job_stops_at_its_next_evaluation_and_leaves_its_place(narrow, gate, job_fields):
    first, second = (posted(narrow, job_fields | {"seed": seed}) for seed in (1, 2))
    gate.let(2)
    shown = narrow.client.get(first["url"]).json()
    assert (shown["state"], shown["progress"], shown["cancelling"]) == ("running", {"step": 2, "steps": 4}, False)

    response = narrow.client.delete(first["url"])
    assert (response.status_code, response.json()["cancelling"]) == (200, True)
    gate.let(1)  # the evaluation that was under way; the next one is the other job's
    assert ended(narrow.client, first)["state"] == "cancelled"
    assert narrow.client.get(second["url"]).json()["progress"]["step"] == 0

    gate.open()
    assert ended(narrow.client, second)["state"] == "done"
    assert gate.arrived == 3 + 4, "three evaluations of the cancelled job, and all of the other"
    assert narrow.client.get(narrow.client.get(first["url"]).json()["url"]).json()["result"] is None


def test_cancelling_what_has_ended_changes_nothing(server, job_fields):
    job = posted(server, job_fields)
    done = ended(server.client, job)
    response = server.client.delete(job["url"])
    assert (response.status_code, response.json()) == (200, done)


def test_pages_go_back_to_the_first_job_and_show_documented_ones(server, job_fields):
    documented = server.client.post("/api/v6/images/inpaint", json=documented_body(1)).json()
    ids = [documented["id"], *(posted(server, job_fields | {"seed": seed})["id"] for seed in range(4))]

    found, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = server.client.get("/jobs", params=query).json()
        found += page["jobs"]
        cursor = page["next"]
        if cursor is None:
            break
    assert [job["id"] for job in found] == ids[::-1]
    assert [job["endpoint"] for job in found] == ["jobs"] * 4 + ["community"]
    assert found[-1]["result"]["images"] == documented["output"]
    assert server.client.get(f"/jobs/{documented['id']}").json()["state"] == "done"


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=", "cursor=-1", "cursor=1.5"])
def test_a_page_that_means_nothing_is_refused(idle, query):
    response = idle.client.get(f"/jobs?{query}")
    assert (response.status_code, response.json()["field"]) == (400, query.partition("=")[0])


def test_a_job_of_another_key_is_as_unknown_as_one_that_never_was(tmp_path, job_fields):
    keys = {name: add_key(tmp_path / "keys.txt", name) for name in ("ann", "bob")}
    with running(tmp_path / "data", keys=tmp_path / "keys.txt") as server:
        hers = posted(server, job_fields, key=keys["ann"])

        def replies(job_id: int) -> list[tuple[int, Any]]:
            found = []
            for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
                response = server.client.request(method, f"/jobs/{job_id}{path}", headers={"key": keys["bob"]})
                found.append((response.status_code, response.json()))
            return found

        unknown = replies(12345)
        assert [status for status, _ in unknown] == [404, 404, 404]
        assert replies(hers["id"]) == replies("x") == replies("9" * 30) == unknown
        for name, count in {"ann": 1, "bob": 0}.items():
            assert len(server.client.get("/jobs", headers={"key": keys[name]}).json()["jobs"]) == count
        for method, path in (("POST", "/jobs"), ("GET", "/jobs"), ("GET", f"/jobs/{hers['id']}"), ("GET", "/models")):
            assert server.client.request(method, path, json={}).status_code == 401


def test_a_full_queue_says_when_to_come_again(gate, tmp_path, job_fields):
    engine = EngineSettings(backend="null", slots=1)
    with running(tmp_path / "data", engine=engine, queue=1) as server:
        posted(server, job_fields)
        gate.wait_for(1)
        for seed in range(4):
            posted_job = server.client.post("/jobs", json=job_fields | {"seed": seed})
            assert posted_job.status_code in (201, 429)  # the dispatcher may not have taken the one before
        while (response := server.client.post("/jobs", json=job_fields)).status_code == 201:
            pass
        assert response.status_code == 429
        assert response.json()["retry_after"] == int(response.headers["retry-after"]) > 0
        gate.open()


def test_a_failed_job_says_why_without_a_path_of_this_machine(server, job_fields, monkeypatch):
    def fail(session: object, states: object) -> None:
        raise intarsia.OutOfMemory("the device has no memory for /srv/weights/unet.safetensors")

    monkeypatch.setattr("intarsia.backends.null.NullSession.decode", fail)
    done = ended(server.client, posted(server, job_fields))
    assert done["error"] == {"message": "the device has no memory for unet.safetensors", "kind": "memory"}
    assert (done["state"], done["result"]) == ("failed", None)
