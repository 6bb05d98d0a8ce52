"""A reader of server-sent events, as browsers read them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass(frozen=True)
class Event:
    """One event: its name, id and parsed data."""

    name: str
    id: str
    data: Any


@contextlib.contextmanager
def following(client: httpx2.Client, url: str, seen: str = "") -> Iterator[Iterator[Event]]:
    """The events of a stream, which is open for as long as the block."""
    headers = {"Last-Event-ID": seen} if seen else {}
    with client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events_of(response.iter_lines())


def events_of(lines: Iterator[str]) -> Iterator[Event]:
    """The events in a stream's lines; comments and `retry` alone make none."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
        fields = {}


def ended(client: httpx2.Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it has ended."""
    with following(client, job["events_url"]) as events:
        *_, last = events
    view: dict[str, Any] = last.data
    return view
