"""The job store: every accepted job, in SQLite or PostgreSQL, through SQLAlchemy Core.

A job is accepted once :meth:`Store.accept` has returned. Its states are queued, running, and done, failed or
cancelled; each change is one transaction, and says which state it starts from, so that of two processes that end the
same job one succeeds.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from intarsia.errors import IntarsiaError, one_line
from intarsia.server.jobs import ENDED, UPLOAD, Done, Failed, Job
from intarsia.server.schema import JOBS, SCHEMA_VERSION, WEBHOOKS, migrate

__all__ = ["IdInUse", "QueueFull", "Store", "StoreError"]

_JSON = ("request", "delivery", "warnings", "meta", "files", "result")


class StoreError(IntarsiaError):
    """The database cannot be opened, read or written; nothing of the change was made."""


class QueueFull(IntarsiaError):
    """As many jobs are queued as the server takes."""


class IdInUse(IntarsiaError):
    """Another job has that id."""


class Store:
    """Jobs and webhooks in one database. Every method may be called from any thread.

    Args:
        url: SQLAlchemy URL; ``sqlite:///path`` or ``postgresql+psycopg://…``.
        clock: Unix time in seconds.

    Raises:
        StoreError: the database cannot be opened, or a newer version of intarsia made it. So does every method.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._is_sqlite = url.startswith("sqlite")
        # SQLite has one writer; who has to wait for it waits here rather than in the database.
        self._writing = threading.RLock()
        with _translated("the database cannot be opened"):
            self._database = _open(url)
            migrate(self._database)

    def accept(
        self, job: Job, *, most: int, idempotency_key: str | None = None, webhook: str | None = None
    ) -> tuple[Job, bool]:
        """Store a new job as queued; durable once this returns.

        Args:
            most: jobs that may be queued.
            idempotency_key: a later job of the same owner with an equal key is not stored: the first one is returned.
            webhook: URL that is called when the job has ended.

        Returns:
            The stored job, and whether it is new.

        Raises:
            QueueFull, IdInUse: nothing was stored.
        """
        values = _values(job) | {"idempotency_key": idempotency_key}
        try:
            with self._write() as connection:
                earlier = self._with_key(connection, job.owner, idempotency_key)
                if earlier is not None:
                    return earlier, False
                if self._count(connection, "queued") >= most:
                    raise QueueFull(f"{most} jobs are queued, which is as many as this server takes; try again later")

                connection.execute(sa.insert(JOBS).values(values))
                if webhook is not None:
                    connection.execute(sa.insert(WEBHOOKS).values(job_id=job.id, url=webhook, status="waiting"))
            return job, True
        except IntegrityError as exc:
            earlier = self.with_key(job.owner, idempotency_key)
            if earlier is not None:  # it was stored in between
                return earlier, False
            raise IdInUse(f"the id {job.id} is in use") from exc

    def get(self, job_id: int) -> Job | None:
        """One job; None where there is none of that id."""
        with self._read() as connection:
            row = connection.execute(_select_jobs().where(JOBS.c.id == job_id)).mappings().first()
        return None if row is None else _job(row)

    def with_key(self, owner: str, idempotency_key: str | None) -> Job | None:
        """The job that an owner's idempotency key has given, if any."""
        with self._read() as connection:
            return self._with_key(connection, owner, idempotency_key)

    def page(self, owner: str | None, *, before: int | None = None, most: int = 50) -> list[Job]:
        """Jobs, the newest first: of one owner, or of all with None. ``before`` is the id of the last one seen.

        Uploads are left out.
        """
        query = _select_jobs().where(JOBS.c.endpoint != UPLOAD).order_by(JOBS.c.id.desc()).limit(most)
        if owner is not None:
            query = query.where(JOBS.c.owner == owner)
        if before is not None:
            query = query.where(JOBS.c.id < before)
        with self._read() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def claim(self, server: str, most: int = 1) -> list[Job]:
        """Mark the oldest queued jobs as running on ``server`` and return them; no two servers get the same."""
        oldest = sa.select(JOBS.c.id).where(JOBS.c.state == "queued").order_by(JOBS.c.id).limit(most)
        if not self._is_sqlite:
            oldest = oldest.with_for_update(skip_locked=True)
        with self._write() as connection:
            ids = list(connection.execute(oldest).scalars())
            if not ids:
                return []
            change = {"state": "running", "server": server, "started": self._clock(), "attempts": JOBS.c.attempts + 1}
            connection.execute(sa.update(JOBS).where(JOBS.c.id.in_(ids)).values(change))
            rows = connection.execute(_select_jobs().where(JOBS.c.id.in_(ids)).order_by(JOBS.c.id)).mappings()
            return [_job(row) for row in rows]

    def finish(self, job_id: int, ended: Done | Failed) -> bool:
        """Store how a running job ended; False where it had ended before, or was queued again."""
        if isinstance(ended, Done):
            return self._end(job_id, "done", {"result": json.dumps(dict(ended.result))})
        return self._end(job_id, "failed", {"error": ended.message, "error_kind": ended.kind})

    def cancel(self, job_id: int) -> Job | None:
        """Cancel a queued job at once, and mark a running one; returns it as it is then."""
        with self._write() as connection:
            queued = sa.update(JOBS).where(JOBS.c.id == job_id, JOBS.c.state == "queued")
            done = connection.execute(queued.values(state="cancelled", cancel_asked=True, finished=self._clock()))
            if done.rowcount:
                self._webhook_due(connection, job_id)
            running = sa.update(JOBS).where(JOBS.c.id == job_id, JOBS.c.state == "running")
            connection.execute(running.values(cancel_asked=True))
        return self.get(job_id)

    def cancelled(self, job_id: int) -> bool:
        """Store that a running job was cancelled."""
        return self._end(job_id, "cancelled", {"cancel_asked": True})

    def cancel_asked(self, server: str) -> list[int]:
        """Ids of the jobs running on ``server`` that were asked to be cancelled, by whichever process."""
        query = sa.select(JOBS.c.id).where(JOBS.c.state == "running", JOBS.c.server == server, JOBS.c.cancel_asked)
        with self._read() as connection:
            return list(connection.execute(query).scalars())

    def requeue(self, job_id: int) -> None:
        """Queue a running job again, at its old place; one that was to be cancelled is cancelled."""
        self._requeue(JOBS.c.id == job_id)

    def requeue_lost(self, alive: Iterator[str] | tuple[str, ...] = ()) -> None:
        """Queue again what runs on servers that are not ``alive``; called when one starts."""
        self._requeue(JOBS.c.server.not_in(list(alive)))

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        query = sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state)
        with self._read() as connection:
            return dict(connection.execute(query).all())

    def endpoint_counts(self) -> dict[tuple[str, str], int]:
        """Jobs by endpoint and state."""
        columns = (JOBS.c.endpoint, JOBS.c.state)
        query = sa.select(*columns, sa.func.count()).group_by(*columns)
        with self._read() as connection:
            return {(endpoint, state): count for endpoint, state, count in connection.execute(query)}

    def queued_before(self, job_id: int) -> int:
        """How many queued jobs will be begun before that one."""
        ahead = sa.select(sa.func.count()).where(JOBS.c.state == "queued", JOBS.c.id < job_id)
        with self._read() as connection:
            return int(connection.execute(ahead).scalar_one())

    def check(self) -> None:
        """Raise where the database cannot be read and written."""
        with self._write() as connection:
            connection.execute(sa.update(SCHEMA_VERSION).values(version=SCHEMA_VERSION.c.version))

    def lane_rows_before(self, job_id: int) -> tuple[int, int]:
        """Jobs ahead of a queued one, and network evaluations that are queued or running ahead of it."""
        ahead = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(JOBS.c.lane_rows), 0))
        ahead = ahead.where(JOBS.c.state.in_(["queued", "running"]), JOBS.c.id < job_id)
        with self._read() as connection:
            jobs, rows = connection.execute(ahead).one()
        return int(jobs), int(rows)

    def expirable(self, before: float, temp_before: float, most: int = 200) -> list[Job]:
        """Ended jobs whose images are still there and whose time is over: Unix times, by ``temp``."""
        over = sa.or_(JOBS.c.finished < before, sa.and_(JOBS.c.temp, JOBS.c.finished < temp_before))
        return self._ended(over, most)

    def oldest_ended(self, most: int = 200) -> list[Job]:
        """Ended jobs whose images are still there, the oldest first."""
        return self._ended(sa.true(), most)

    def expire(self, job_id: int) -> None:
        """Note that a job's images have been removed."""
        with self._write() as connection:
            connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(expired=True))

    def forget(self, before: float) -> int:
        """Remove the rows of expired jobs that ended before that Unix time; returns how many."""
        old = sa.select(JOBS.c.id).where(JOBS.c.expired, JOBS.c.finished < before)
        with self._write() as connection:
            connection.execute(sa.delete(WEBHOOKS).where(WEBHOOKS.c.job_id.in_(old)))
            return connection.execute(sa.delete(JOBS).where(JOBS.c.id.in_(old))).rowcount

    def needed_inputs(self) -> set[str]:
        """Hashes of the inputs of jobs that have not ended."""
        query = sa.select(JOBS.c.request).where(JOBS.c.state.not_in(ENDED))
        with self._read() as connection:
            return {sha256 for text in connection.execute(query).scalars() for sha256 in _inputs(json.loads(text))}

    def close(self) -> None:
        """Close every connection."""
        self._database.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction, for the tables that have a file of their own (:mod:`intarsia.server.webhook_store`)."""
        with self._write() as connection:
            yield connection

    def _end(self, job_id: int, state: str, change: Mapping[str, Any]) -> bool:
        values = {"state": state, "finished": self._clock(), **change}
        running = sa.update(JOBS).where(JOBS.c.id == job_id, JOBS.c.state == "running")
        with self._write() as connection:
            if not connection.execute(running.values(values)).rowcount:
                return False
            self._webhook_due(connection, job_id)
        return True

    def _webhook_due(self, connection: sa.Connection, job_id: int) -> None:
        """In the transaction that ends the job, so that no death comes between."""
        waiting = sa.update(WEBHOOKS).where(WEBHOOKS.c.job_id == job_id, WEBHOOKS.c.status == "waiting")
        connection.execute(waiting.values(status="due", next_attempt=self._clock()))

    def _requeue(self, which: Any) -> None:
        running = sa.and_(JOBS.c.state == "running", which)
        with self._write() as connection:
            cancelled = connection.execute(sa.select(JOBS.c.id).where(running, JOBS.c.cancel_asked)).scalars().all()
            for job_id in cancelled:
                ended = {"state": "cancelled", "finished": self._clock()}
                connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(ended))
                self._webhook_due(connection, job_id)
            connection.execute(sa.update(JOBS).where(running).values(state="queued", server="", started=None))

    def _ended(self, condition: Any, most: int) -> list[Job]:
        query = _select_jobs().where(JOBS.c.state.in_(ENDED), sa.not_(JOBS.c.expired), condition)
        with self._read() as connection:
            return [_job(row) for row in connection.execute(query.order_by(JOBS.c.finished).limit(most)).mappings()]

    def _with_key(self, connection: sa.Connection, owner: str, idempotency_key: str | None) -> Job | None:
        if idempotency_key is None:
            return None
        query = _select_jobs().where(JOBS.c.owner == owner, JOBS.c.idempotency_key == idempotency_key)
        row = connection.execute(query).mappings().first()
        return None if row is None else _job(row)

    def _count(self, connection: sa.Connection, state: str) -> int:
        query = sa.select(sa.func.count()).select_from(JOBS).where(JOBS.c.state == state)
        return int(connection.execute(query).scalar_one())

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with _translated("the database cannot be read"), self._database.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with _translated("the database cannot be written"), self._one_writer(), self._database.begin() as connection:
            yield connection

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        if not self._is_sqlite:
            yield
            return
        with self._writing:
            yield


def _open(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=15)

    database = sa.create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})

    @sa.event.listens_for(database, "connect")
    def _configure(connection: Any, _: object) -> None:
        # Readers do not wait for the writer, and a commit is on the disk before it returns.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return database


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (SQLAlchemyError, ModuleNotFoundError) as exc:
        cause = getattr(exc, "orig", None) or exc
        raise StoreError(f"{what}: {one_line(cause)}") from exc


def _select_jobs() -> sa.Select[Any]:
    webhook = sa.select(WEBHOOKS.c.status).where(WEBHOOKS.c.job_id == JOBS.c.id).scalar_subquery()
    return sa.select(JOBS, webhook.label("webhook_status"))


def _values(job: Job) -> dict[str, Any]:
    """A job's columns."""
    values = {column.name: getattr(job, column.name) for column in JOBS.columns if hasattr(job, column.name)}
    for name in _JSON:
        values[name] = None if values[name] is None else json.dumps(values[name])
    return values | {"temp": bool(job.delivery.get("temp"))}


def _job(row: Mapping[Any, Any]) -> Job:
    values = {name: row[name] for name in Job.__dataclass_fields__}
    for name in _JSON:
        values[name] = None if values[name] is None else json.loads(values[name])
    values["warnings"], values["files"] = tuple(values["warnings"]), tuple(values["files"])
    values["webhook_status"] = values["webhook_status"] or ""
    return Job(**values)


def _inputs(request: Mapping[str, Any]) -> Iterator[str]:
    """Hashes of the images that a stored request names."""
    for value in request.values():
        if isinstance(value, dict):
            if "sha256" in value:
                yield value["sha256"]
            yield from _inputs(value)
