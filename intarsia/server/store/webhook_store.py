"""The calls that jobs are to make when they have ended, in the database: so they survive a restart."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from intarsia.server.store.database import Database
from intarsia.server.store.jobs import WebhookTarget
from intarsia.server.store.schema import WEBHOOKS

__all__ = ["WebhookCall", "WebhookStore"]

# A try is further ahead than this only where a clock was set back: it is made now.
_LONGEST_WAIT = 86400.0


@dataclass(frozen=True, kw_only=True)
class WebhookCall:
    """One try of a webhook.

    Attributes:
        call_id: random, and the same in every try.
        base_url: what addresses in the body begin with.
        attempt: counts from 1.
    """

    job_id: int
    call_id: str
    url: str
    host: str
    base_url: str
    attempt: int


class WebhookStore:
    """Webhooks: ``waiting`` for their job's end, then ``due`` until they are ``delivered`` or have ``failed``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, connection: sa.Connection, job_id: int, target: WebhookTarget) -> None:
        """Store a webhook, in the transaction that stores its job."""
        values = {"url": target.url, "host": target.host, "base_url": target.base_url}
        row = values | {"job_id": job_id, "call_id": secrets.token_hex(16), "status": "waiting"}
        connection.execute(sa.insert(WEBHOOKS).values(row))

    def job_ended(self, connection: sa.Connection, job_ids: Sequence[int]) -> None:
        """Make webhooks due, in the transaction that ends their jobs, so that no crash comes between."""
        waiting = sa.update(WEBHOOKS).where(WEBHOOKS.c.job_id.in_(job_ids), WEBHOOKS.c.status == "waiting")
        connection.execute(waiting.values(status="due", next_attempt=self._database.unix_time))

    def claim(self, lease: float, busy: Collection[str] = ()) -> WebhookCall | None:
        """Begin a try of the webhook that has been due for longest; None where none is due.

        Args:
            lease: seconds until another claim may begin the next try, unless this one's end is noted before.
            busy: hosts that are left alone.
        """
        now = self._database.unix_time
        is_due = sa.or_(WEBHOOKS.c.next_attempt <= now, WEBHOOKS.c.next_attempt > now + _LONGEST_WAIT)
        first = sa.select(WEBHOOKS.c.job_id).where(WEBHOOKS.c.status == "due", is_due, WEBHOOKS.c.host.not_in(busy))
        first = first.order_by(WEBHOOKS.c.next_attempt).limit(1)
        if not self._database.is_sqlite:
            first = first.with_for_update(skip_locked=True)

        with self._database.write() as connection:
            job_id = connection.execute(first).scalar()
            if job_id is None:
                return None
            change = {"attempts": WEBHOOKS.c.attempts + 1, "next_attempt": now + lease}
            begun = sa.update(WEBHOOKS).where(WEBHOOKS.c.job_id == job_id).values(change)
            connection.execute(begun)
            row = connection.execute(sa.select(WEBHOOKS).where(WEBHOOKS.c.job_id == job_id)).one()
        return WebhookCall(
            job_id=row.job_id,
            call_id=row.call_id,
            url=row.url,
            host=row.host,
            base_url=row.base_url,
            attempt=row.attempts,
        )

    def delivered(self, call: WebhookCall) -> None:
        """Note that the receiver took a try, be it after the next one has begun."""
        self._note(WEBHOOKS.c.job_id == call.job_id, {"status": "delivered", "next_attempt": None})

    def failed(self, call: WebhookCall, error: str, wait: float | None) -> None:
        """Note that a try failed; without effect where another one has followed, because it took too long.

        Args:
            error: one line, without secrets.
            wait: seconds until the next try; None where it was the last one.
        """
        is_latest = sa.and_(WEBHOOKS.c.job_id == call.job_id, WEBHOOKS.c.attempts == call.attempt)
        row = sa.and_(is_latest, WEBHOOKS.c.status == "due")
        if wait is None:
            self._note(row, {"status": "failed", "last_error": error, "next_attempt": None})
        else:
            self._note(row, {"last_error": error, "next_attempt": self._database.unix_time + wait})

    def seconds_to_next(self, busy: Collection[str] = ()) -> float | None:
        """Until the next try is due, 0 where it is; None where nothing waits for one."""
        first = sa.select(sa.func.min(WEBHOOKS.c.next_attempt) - self._database.unix_time)
        query = first.where(WEBHOOKS.c.status == "due", WEBHOOKS.c.host.not_in(busy))
        with self._database.read() as connection:
            seconds = connection.execute(query).scalar()
        return None if seconds is None else max(0.0, seconds)

    def counts(self) -> dict[str, int]:
        """Webhooks by status."""
        query = sa.select(WEBHOOKS.c.status, sa.func.count()).group_by(WEBHOOKS.c.status)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def _note(self, row: sa.ColumnElement[bool], change: dict[str, object]) -> None:
        with self._database.write() as connection:
            connection.execute(sa.update(WEBHOOKS).where(row).values(change))
