"""A key in a field that is none for keys is refused before anything of the request is kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from intarsia.server.http.keys_editing import add_key
from tests.server.killed import documented_body
from tests.server.running import Running, running

INPAINT = "/api/v6/images/inpaint"
UNCHECKED = "the-key-of-the-hosted-service"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    """A server with a key, and the key."""
    folder = tmp_path_factory.mktemp("keys")
    key = add_key(folder / "keys.txt", "ann")
    with running(folder / "data", keys=folder / "keys.txt") as server:
        yield server, key


def kept(server: Running) -> bytes:
    """Every byte that the server has written."""
    root: Path = server.services.files.root
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "a cat KEY"),
        ("negative_prompt", "KEY"),
        ("track_id", "KEY"),
        ("webhook", "https://example.org/hook?key=KEY"),
        ("init_image", "https://example.org/a.png?key=KEY"),
        ("unheard_of", {"deep": [1, {"KEY": "x"}]}),
    ],
)
@pytest.mark.parametrize("place", ["key", "bearer"])
def test_a_documented_request_is_refused_by_the_name_of_the_field(guarded, caplog, field, value, place):
    server, key = guarded
    headers = {"Authorization": f"Bearer {key}"} if place == "bearer" else {}
    body = documented_body(1, **({"key": key} if place == "key" else {}))
    body[field] = json.loads(json.dumps(value).replace("KEY", key))
    with caplog.at_level(logging.INFO, "intarsia"):
        response = server.client.post(INPAINT, json=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["message"] == f"{field} has the API key in it; send the key as key or in a header alone"
    assert key not in response.text + caplog.text
    assert key.encode() not in kept(server)
    assert server.services.store.counts() == {}


@pytest.mark.parametrize("as_form", [False, True])
def test_a_request_of_our_own_api_is_refused_too(guarded, job_fields, as_form):
    server, key = guarded
    fields: dict[str, Any] = job_fields | {"prompt": f"({key})"}
    files = {"request": ("r", json.dumps(fields), "application/json")}
    content = {"files": files} if as_form else {"json": fields}
    response = server.client.post("/jobs", headers={"key": key}, **content)
    assert (response.status_code, response.json()["field"]) == (400, "prompt")
    assert key not in response.text
    assert key.encode() not in kept(server)


def test_headers_that_are_kept_and_names_of_fields_are_looked_at(guarded, job_fields):
    server, key = guarded
    response = server.client.post("/jobs", json=job_fields, headers={"key": key, "Idempotency-Key": f"1-{key}"})
    assert response.status_code == 400
    assert response.json()["message"].startswith("idempotency-key has the API key in it")
    response = server.client.post(INPAINT, json=documented_body(1, **{"key": key, f"x{key}": 1}))
    assert response.json()["message"].startswith("the name of a field has the API key in it")
    assert key.encode() not in kept(server)


def test_a_server_without_keys_looks_for_what_is_no_ordinary_word(idle):
    body = documented_body(1, key=UNCHECKED, prompt=f"x {UNCHECKED}", instant_response=True)
    response = idle.client.post(INPAINT, json=body)
    assert (response.status_code, UNCHECKED in response.text) == (400, False)
    body = documented_body(1, key="flower", prompt="a sunflower", track_id="flower")
    assert idle.client.post(INPAINT, json=body).json()["status"] == "success"
