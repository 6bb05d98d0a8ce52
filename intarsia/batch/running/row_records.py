"""Records of rows, made from jobs and from rows that cannot be run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from intarsia.batch.ledger.error_kinds import ErrorKind
from intarsia.batch.ledger.records import Record, Status, timestamp
from intarsia.batch.manifest.rows import Refused, Row, is_path, sources_of
from intarsia.batch.running.jobs import Job
from intarsia.printable import printable

__all__ = ["failed", "not_begun", "record_of", "refused", "skipped"]


def record_of(job: Job, status: Status) -> Record:
    """The record of an attempt, without what came of it."""
    return Record(
        id=job.id,
        line=job.number,
        attempts=job.attempt,
        time=timestamp(),
        degraded=job.degraded or None,
        sources=_files(job.fields) or None,
        status=status,
    )


def _files(fields: Mapping[str, Any]) -> dict[str, str]:
    """The input images that are files, and are there: an address may hold keys, also one that looks like a path."""
    sources = sources_of(fields)
    return {name: source for name, source in sources.items() if is_path(source) and os.path.isfile(source)}


def failed(job: Job, error: ErrorKind, text: str) -> Record:
    """The record of a row that has no outputs."""
    status: Status = "cancelled" if error == "cancelled" else "error"
    return replace(record_of(job, status), error=error, text=text)


def skipped(job: Job, identities: Mapping[str, str]) -> Record:
    """The record of a row that was done before; ``identities`` are those of its input images now."""
    text = "done before: the images are those that it was done with"
    return replace(record_of(job, "skipped"), text=text, identities=dict(identities), spec_hash=job.known)


def refused(row: Refused) -> Record:
    """The record of a row that cannot be run."""
    record = failed(Job(number=row.number, id=row.id), row.error, printable(row.text))
    return replace(record, nameless=_nameless(row))


def not_begun(row: Row | Refused, reason: str) -> Record:
    """The record of a row that a stopped run has not begun."""
    record = record_of(Job(number=row.number, id=row.id, attempt=0), "skipped")
    return replace(record, error="cancelled", text=reason, nameless=_nameless(row))


def _nameless(row: Row | Refused) -> bool | None:
    return True if isinstance(row, Refused) and row.is_nameless else None
