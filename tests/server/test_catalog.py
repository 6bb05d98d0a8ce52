"""Models and schedulers, the hosted service's small routes, and uploads that later requests name by their URL."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image
from typer.testing import CliRunner

from intarsia import cli
from intarsia.schedulers import catalogue
from intarsia.server.http.keys_editing import add_key
from intarsia.server.store import store
from intarsia.server.store.kept_uploads import KeptUploads
from intarsia.server.store.own_images import own_image
from tests.server.conftest import PIXELS, png
from tests.server.event_stream import ended
from tests.server.killed import documented_body
from tests.server.running import Running, running

PONY = "/api/v1/enterprise/pony"
UPLOAD = "/api/v6/base64_to_url"


def command(*arguments: str) -> Any:
    """What the command line prints as JSON."""
    done = CliRunner().invoke(cli.app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uploaded(server: Running, data: bytes, **fields: Any) -> dict[str, Any]:
    response = server.client.post(UPLOAD, json={"key": "any", "base64_string": encoded(data), **fields})
    assert response.status_code == 200, response.text
    return response.json()


def pixels_at(server: Running, url: str) -> np.ndarray:
    response = server.client.get(url)
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def test_models_and_schedulers_are_what_the_command_line_lists(idle):
    models = idle.client.get("/models").json()
    assert models["models"] == command("models", "list")["entries"]
    assert models["safety"] == command("models", "list", "--kind", "safety")["entries"]
    assert [model["id"] for model in models["models"] if model["default"]] == ["intarsia-tiny"]
    assert idle.client.get("/schedulers").json()["schedulers"] == command("schedulers")["schedulers"]


def test_the_hosted_services_lists_name_what_is_here(idle):
    def answer(name: str, **request: Any) -> Any:
        response = idle.client.post(f"{PONY}/{name}", **request)
        assert response.status_code == 200
        return response.json()

    schedulers = answer("schedulers_list", json={"key": "any"})
    assert schedulers == {"status": "success", "schedulers": [row.name for row in catalogue()]}
    models = answer("get_all_models")  # clients send an empty body too
    packaged = ["intarsia-tiny", "intarsia-tiny-lcm", "intarsia-tiny-base"]
    assert [model["model_id"] for model in models["models"]] == packaged
    assert (models["status"], models["models"][0]["installed"]) == ("success", True)
    details = answer("system_details", json={})
    assert (details["status"], details["backend"], details["devices"]) == ("success", "null", ["auto"])


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:image/png;base64, "])
def test_an_image_is_stored_and_served_as_png(idle, image_file, prefix):
    response = idle.client.post(UPLOAD, json={"key": "any", "base64_string": prefix + encoded(image_file)})
    reply = response.json()
    assert (reply["status"], reply["output"]) == ("success", [reply["link"]])
    assert reply["link"].startswith(f"{idle.url}/files/temp/")
    np.testing.assert_array_equal(pixels_at(idle, reply["link"]), PIXELS)


def test_a_jpeg_becomes_png_and_loses_what_it_says_of_its_owner(idle):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x013B] = "the owner's name"
    Image.fromarray(PIXELS).save(file, "JPEG", exif=exif)
    response = idle.client.get(uploaded(idle, file.getvalue())["link"])
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).format == "PNG"
    assert b"owner" not in response.content


def test_the_other_address_takes_the_other_field(idle, image_file):
    body = {"key": "any", "init_image": "data:image/png;base64," + encoded(image_file)}
    response = idle.client.post("/api/v6/image_editing/base64_to_url", json=body)
    np.testing.assert_array_equal(pixels_at(idle, response.json()["output"][0]), PIXELS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "base64_string is required"),
        ({"base64_string": ""}, "base64_string is required"),
        ({"base64_string": 7}, "base64_string must be an image as base64 or as a data URI"),
        ({"base64_string": "http://127.0.0.1/a.png"}, "base64_string must be an image as base64 or as a data URI"),
        ({"base64_string": "file:///etc/passwd"}, "base64_string must be an image as base64 or as a data URI"),
        ({"base64_string": "/etc/passwd"}, "base64_string"),
        ({"base64_string": encoded(b"MZ, a program")}, "base64_string: the base64 text is not an image"),
    ],
)
def test_what_is_no_image_is_not_stored(idle, fields, message):
    outputs = idle.services.files.root / "outputs"
    before = sorted(outputs.iterdir())
    response = idle.client.post(UPLOAD, json={"key": "any", **fields})
    assert (response.status_code, response.json()["status"]) == (400, "error")
    assert response.json()["message"].startswith(message)
    assert sorted(outputs.iterdir()) == before


def test_an_upload_can_be_painted_although_this_machines_addresses_are_not_fetched(server, job_fields, image_file):
    link = uploaded(server, image_file)["link"]
    by_link, by_value = (
        ended(server.client, server.client.post("/jobs", json=job_fields | change).json())
        for change in ({"init_image": link}, {})
    )
    urls = [job["result"]["images"][0] for job in (by_link, by_value)]
    np.testing.assert_array_equal(*(pixels_at(server, url) for url in urls))

    again = server.client.post("/jobs", json=job_fields | {"init_image": urls[0]})
    assert again.status_code == 201, "an output can be painted on"
    refused = server.client.post("/jobs", json=job_fields | {"init_image": f"{server.url}/files/{'x' * 22}-0.png"})
    assert (refused.status_code, refused.json()["field"]) == (400, "init_image")


def test_a_documented_request_takes_an_upload_under_any_of_the_servers_names(server, image_file, mask_file):
    link = uploaded(server, image_file)["link"].replace("127.0.0.1", "images.example.org")
    body = documented_body(1, init_image=link, mask_image=encoded(mask_file))
    reply = server.client.post("/api/v6/images/inpaint", json=body).json()
    assert reply["status"] == "success", reply


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, str]]]:
    """A server that stores three uploads of a key, 50 kB in all, and its keys."""
    folder = tmp_path_factory.mktemp("small")
    keys = {name: add_key(folder / "keys.txt", name) for name in ("ann", "bob", "cid")}
    with running(folder / "data", keys=folder / "keys.txt", uploads=3, upload_bytes=50_000) as server:
        yield server, keys


def test_a_key_stores_so_many_images_and_no_more(small):
    server, keys = small
    tiny = png(np.zeros((8, 8, 3), np.uint8))
    links = [uploaded(server, tiny, key=keys["ann"])["link"] for _ in range(3)]
    before = server.services.files.output_bytes()
    response = server.client.post(UPLOAD, json={"key": keys["ann"], "base64_string": encoded(tiny)})
    reply = response.json()
    assert (response.status_code, reply["status"]) == (429, "error")
    assert reply["message"].startswith("3 uploaded images of this key are stored, of 3; each is removed after 1 day")
    assert 86000 < int(response.headers["retry-after"]) == reply["retry_after"] <= 86400
    assert server.services.files.output_bytes() == before

    assert uploaded(server, tiny, key=keys["bob"])["status"] == "success"
    total = KeptUploads(server.services.store.database).of("ann")
    assert (total.images, total.bytes) == (3, sum(len(server.client.get(link).content) for link in links))
    for job in server.services.retention._jobs.oldest():
        if job.owner == "ann":
            server.services.retention._remove(job)
            break
    assert uploaded(server, tiny, key=keys["ann"])["status"] == "success", "one has been removed"


def test_a_key_stores_so_many_bytes_and_no_more(small, image_file):
    server, keys = small
    uploaded(server, image_file, key=keys["cid"])  # 37 kB, as noise is
    response = server.client.post(UPLOAD, json={"key": keys["cid"], "base64_string": encoded(image_file)})
    assert response.status_code == 429
    assert "bytes of this key's uploaded images are stored, of 50000" in response.json()["message"]
    large = png(np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    key = add_key(server.services.settings.keys, "dan")
    response = server.client.post(UPLOAD, json={"key": key, "base64_string": encoded(large)})
    assert response.status_code == 413, "it fits never"


def test_an_upload_is_no_job(server, image_file):
    reply = uploaded(server, image_file)
    assert server.client.get("/jobs").json()["jobs"] == []
    assert server.client.get(f"/jobs/{reply['id']}").status_code == 404
    assert server.client.delete(f"/jobs/{reply['id']}").status_code == 404
    assert server.client.post(f"/api/v6/images/fetch/{reply['id']}").status_code == 404


def test_an_upload_is_stored_where_the_queue_is_full(server, job_fields, image_file, monkeypatch):
    full = sa.select(sa.literal(10**9), sa.func.length(sa.bindparam("whose", type_=sa.Text)), sa.literal(0))
    monkeypatch.setattr(store, "QUEUED", full)
    assert server.client.post("/jobs", json=job_fields).status_code == 429
    assert uploaded(server, image_file)["status"] == "success"


def test_an_upload_is_removed_after_a_day(server, image_file):
    link = uploaded(server, image_file)["link"]
    retention, database = server.services.retention, server.services.store.database
    retention.sweep()
    clocks = time.time(), time.monotonic()
    for hours, status in ((23, 200), (25, 404)):
        now, monotonic = (clock + hours * 3600 for clock in clocks)
        database._clock = lambda now=now: now
        retention._monotonic = lambda monotonic=monotonic: monotonic
        retention.sweep()
        assert server.client.get(link).status_code == status


@pytest.mark.parametrize(
    "url",
    [
        "http://h/files/../jobs.sqlite3",
        "http://h/files/%2e%2e/NAME",
        "http://h/files/NAME?x=1",
        "http://h/files/NAME#x",
        "http://h/file/NAME",
        "http://h/files/temp/other/NAME",
        "ftp://h/files/NAME",
        "/files/NAME",
        "NAME",
        "http://[/files/NAME",
        7,
        None,
        b"http://h/files/NAME",
    ],
)
def test_only_an_address_of_an_output_is_taken_from_the_store(idle, image_file, url):
    name = uploaded(idle, image_file)["link"].rpartition("/")[2]
    files = idle.services.files
    for good in (f"http://h/files/{name}", f" HTTPS://h/prefix/files/temp/{name} "):
        assert own_image(good, files) == files.output(name)
    assert own_image(url.replace("NAME", name) if isinstance(url, str) else url, files) is None
