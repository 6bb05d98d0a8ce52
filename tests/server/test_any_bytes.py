"""Whatever bytes come in, a documented reply goes out: the server's fixture holds each against the documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis: pip install -e '.[dev]'")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.killed import documented_body
from tests.server.running import Running, running

PATHS = [
    "/api/v6/images/inpaint",
    "/api/v6/realtime/inpaint",
    "/api/v1/enterprise/pony/inpaint",
    "/api/v6/images/fetch",
    "/api/v6/images/fetch/1",
    "/api/v7/images/fetch/not-a-number",
]
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("any-bytes"), queue=10_000) as opened:
        yield opened


def _documented(response: httpx2.Response) -> dict[str, Any]:
    reply = response.json()
    assert reply["status"] in ("success", "processing", "error")
    assert (reply["status"] == "error") == (response.status_code >= 400)
    if reply["status"] == "error":
        assert 400 <= response.status_code < 500, reply  # nothing that comes in is a fault of ours
        assert "\n" not in reply["message"]
    return dict(reply)


def _post(server: Running, path: str, body: bytes) -> dict[str, Any]:
    return _documented(server.client.post(path, content=body, headers={"Content-Type": "application/json"}))


@MANY
@given(path=st.sampled_from(PATHS), body=st.binary(max_size=200))
def test_any_bytes_are_answered(server, path, body):
    _post(server, path, body)


@MANY
@given(path=st.sampled_from(PATHS), value=JSON)
def test_any_json_is_answered(server, path, value):
    _post(server, path, json.dumps(value).encode())


@MANY
@given(field=st.sampled_from(sorted(documented_body(0))), value=JSON, path=st.sampled_from(PATHS[:3]))
def test_any_value_of_any_field_is_answered(server, path, field, value):
    _post(server, path, json.dumps({**documented_body(0), "width": 512, "height": 512, field: value}).encode())


@MANY
@given(job_id=st.text(min_size=1, max_size=30))
def test_any_id_is_answered(server, job_id):
    reply = _documented(server.client.post(f"/api/v6/images/fetch/{httpx2.QueryParams({'x': job_id})}"))
    assert reply["status"] == "error"


def test_a_body_that_is_nested_beyond_all_depth_is_no_json(server):
    assert _post(server, PATHS[0], b"[" * 19_000)["message"] == "the request's body is not valid JSON"


@pytest.mark.parametrize("job_id", ["0", "99999999999999999999", 7, 7.5, True, [1], "١٢"])
def test_an_id_that_nobody_has_is_404(server, job_id):
    response = server.client.post("/api/v6/images/fetch", json={"request_id": job_id})
    assert (response.status_code, response.json()["message"]) == (404, "there is no request of that id")


def test_a_fetch_without_an_id_says_what_is_missing(server):
    response = server.client.post("/api/v6/images/fetch", json={})
    assert (response.status_code, response.json()["message"]) == (400, "request_id is required")
