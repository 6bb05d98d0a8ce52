"""Statuses that HTTP asks another header for (RFC 9110): 401, 405 and 429."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from intarsia.server.admission import Overloaded
from intarsia.server.http.error_replies import error_response
from intarsia.server.http.keys_editing import add_key
from intarsia.server.store.store import QueueFull, StoreError
from tests.server.killed import documented_body
from tests.server.running import Running, running


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose key nobody has."""
    folder = tmp_path_factory.mktemp("locked")
    add_key(folder / "keys.txt", "ann")
    with running(folder / "data", keys=folder / "keys.txt") as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/jobs", "GET, POST"),
        ("POST", "/jobs/1", "DELETE, GET"),
        ("GET", "/api/v6/images/inpaint", "POST"),
        ("GET", "/api/v6/realtime/fetch/12", "POST"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("POST", "/files/x.png", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_answered_with_those_that_are_right(locked, method, path, allowed):
    response = locked.client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.json() == {"status": "error", "message": f"this address takes {allowed}, not {method}"}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer of-nobody"}])
def test_a_401_says_how_a_key_is_sent(locked, headers):
    documented = locked.client.post("/api/v6/images/inpaint", json=documented_body(1), headers=headers)
    for response in (documented, locked.client.get("/jobs", headers=headers), locked.client.get("/metrics")):
        assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer realm="intarsia"')


@pytest.mark.parametrize("path", ["/api/v6/images/fetch/", "/api/v6/images/fetch//", "/jobs/"])
def test_a_slash_too_many_is_no_redirect(locked, path):
    response = locked.client.post(path, json={})
    assert (response.status_code, response.json()["message"]) == (404, "there is nothing at this address")


def test_other_errors_ask_for_no_key(locked):
    response = locked.client.get("/nothing")
    assert response.status_code == 404
    assert not {"www-authenticate", "allow"} & set(response.headers)


def test_a_database_that_fails_is_a_500_with_what_is_public_of_it(locked, caplog):
    error = StoreError("the database cannot be read: no server at db.internal", public="the database cannot be read")
    response = error_response(error, locked.services.registry)
    assert (response.status_code, json.loads(response.body)["message"]) == (500, "the database cannot be read")
    assert "db.internal" in caplog.text


@pytest.mark.parametrize("error", [QueueFull(64), Overloaded("too many")])
def test_those_that_are_refused_together_are_asked_back_at_different_times(locked, error):
    replies = [error_response(error, locked.services.registry) for _ in range(100)]
    seconds = [int(reply.headers["retry-after"]) for reply in replies]
    assert {reply.status_code for reply in replies} == {429}
    assert [json.loads(reply.body)["retry_after"] for reply in replies] == seconds
    assert set(seconds) == {3, 4, 5, 6, 7, 8}
