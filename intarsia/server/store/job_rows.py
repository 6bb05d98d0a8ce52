"""A job as a row of the database, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from intarsia.counted import counted
from intarsia.server.store.jobs import Job
from intarsia.server.store.schema import JOBS, WEBHOOKS

__all__ = ["inputs_of", "job_of", "select_jobs", "values_of"]

_JSON = ("request", "delivery", "warnings", "meta", "files", "result")
_STORED = [name for name in Job.__dataclass_fields__ if name in JOBS.c]


def select_jobs() -> sa.Select[Any]:
    """Jobs with what :func:`job_of` needs of their webhooks."""
    webhook = (WEBHOOKS.c.status, WEBHOOKS.c.attempts.label("tries"), WEBHOOKS.c.last_error)
    columns = [JOBS.c[name] for name in _STORED]
    return sa.select(*columns, *webhook).select_from(JOBS.outerjoin(WEBHOOKS))


def values_of(job: Job) -> dict[str, Any]:
    """A job's columns."""
    values = {name: getattr(job, name) for name in _STORED}
    for name in _JSON:
        values[name] = None if values[name] is None else json.dumps(values[name])
    return values | {"temp": bool(job.delivery.get("temp"))}


def job_of(row: Mapping[Any, Any]) -> Job:
    """The job of a row of :func:`select_jobs`."""
    values = {name: row[name] for name in _STORED}
    for name in _JSON:
        values[name] = None if values[name] is None else json.loads(values[name])
    values["warnings"], values["files"] = tuple(values["warnings"]), tuple(values["files"])
    return Job(**values, webhook_status=_webhook_status(row["status"], row["tries"], row["last_error"]))


def inputs_of(request: Mapping[str, Any]) -> Iterator[str]:
    """Hashes of the images that a stored request names."""
    for value in request.values():
        if isinstance(value, dict):
            if "sha256" in value:
                yield value["sha256"]
            yield from inputs_of(value)


def _webhook_status(status: str | None, tries: int, error: str) -> str:
    if status is None:
        return ""
    word = "waiting" if status == "due" else status
    if not error or status == "delivered":
        return word
    return f"{word}: {error} after {counted(tries, 'try', 'tries')}"
