"""The job store: every accepted job, in SQLite or PostgreSQL.

A job is accepted once :meth:`Store.accept` has returned. Its states are queued, running, and done, failed or
cancelled; each change is one transaction, and says which state it starts from, so that of two processes that end the
same job one succeeds. What ends or gives back a running job also says in which attempt, so that a server whose job was
taken from it, because it seemed dead, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from intarsia.errors import IntarsiaError
from intarsia.server.store.database import Database, StoreError
from intarsia.server.store.database_file import DatabaseFile
from intarsia.server.store.job_rows import job_of, select_jobs, values_of
from intarsia.server.store.jobs import UPLOAD, Accepted, Done, Failed, Job, Queue, WebhookTarget, ended_job
from intarsia.server.store.leases import Leases
from intarsia.server.store.schema import JOBS, SCHEMA_VERSION, migrate
from intarsia.server.store.statements import AHEAD, INSERT_JOB, JOB, QUEUED, JobChanges, ended_values
from intarsia.server.store.webhook_store import WebhookStore

__all__ = ["IdInUse", "QueueFull", "Store", "StoreError"]


class QueueFull(IntarsiaError):
    """As many jobs are queued as the server takes, of all owners or of one.

    Attributes:
        most: how many that is.
        owner: whose share is used up; None where the whole queue is.
    """

    def __init__(self, most: int, owner: str | None = None) -> None:
        whose = "jobs are queued" if owner is None else "jobs of this key are queued"
        super().__init__(f"{most} {whose}, which is as many as this server takes; try again later")
        self.most, self.owner = most, owner


class IdInUse(IntarsiaError):
    """Another job has that id."""


class Store:
    """Jobs in one database. Every method may be called from any thread.

    Args:
        where: path of a SQLite file, or a SQLAlchemy URL: ``sqlite:///path`` or ``postgresql+psycopg://…``.
        shared: other servers may use the database at the same time; a server's jobs are its own while its heartbeat
            is heard. Without, whatever runs on another server was left by one that has ended.
        clock: Unix time in seconds; None as for :class:`intarsia.server.store.database.Database`.

    Attributes:
        database: where it all is, for what has tables or queries of its own.
        webhooks: the calls that jobs are to make when they have ended.

    Raises:
        StoreError: the database cannot be opened, or a newer version of intarsia made it. So does every method.
    """

    def __init__(self, where: str | Path, *, shared: bool = False, clock: Callable[[], float] | None = None) -> None:
        self.database = Database(where, clock)
        self.webhooks = WebhookStore(self.database)
        self._changes = JobChanges(self.database)
        self._leases = Leases(self.database) if shared else None
        migrate(self.database)
        self._file = DatabaseFile(self.database.path)

    @property
    def is_shared(self) -> bool:
        """Whether other servers may use the database at the same time."""
        return self._leases is not None

    def accept(
        self,
        job: Job,
        *,
        most: int,
        share: int | None = None,
        idempotency_key: str | None = None,
        webhook: WebhookTarget | None = None,
    ) -> Accepted:
        """Store a new job as queued, behind all that were accepted before; durable once this returns.

        Args:
            most: jobs that may be queued.
            share: jobs of one owner that may be queued; None is ``most``.
            idempotency_key: a later job of the same owner with an equal key is not stored: the first one is returned.
            webhook: what is called when the job has ended.

        Raises:
            QueueFull, IdInUse: nothing was stored.
        """
        self._file.check()  # in a file that has no name any more, jobs are lost with the process
        values = values_of(job) | {"idempotency_key": idempotency_key}
        try:
            with self.database.write() as connection:
                # One at a time, so that the queue's length and the order are exact.
                self.database.lock(connection, "acceptance")
                earlier = self._with_key(connection, job.owner, idempotency_key)
                if earlier is not None:
                    return Accepted(earlier, False, None)
                queue = self._check_room(connection, job.owner, most, share)
                connection.execute(INSERT_JOB, values)
                if webhook is not None:
                    self.webhooks.add(connection, job.id, webhook)
            return Accepted(job, True, queue)
        except IntegrityError as exc:
            if self.get(job.id) is None:
                raise StoreError("the job does not fit the database's tables") from exc
            raise IdInUse(f"the id {job.id} is in use") from exc

    def get(self, job_id: int) -> Job | None:
        """One job; None where there is none of that id."""
        if not 0 < job_id < 2**53:
            return None
        with self.database.read() as connection:
            row = connection.execute(JOB, {"wanted": job_id}).mappings().first()
        return None if row is None else job_of(row)

    def check_room(self, most: int, *, owner: str = "", share: int | None = None) -> Queue:
        """Raise QueueFull where :meth:`accept` would now: before a request is read and its images are decoded."""
        with self.database.read() as connection:
            return self._check_room(connection, owner, most, share)

    def with_key(self, owner: str, idempotency_key: str | None) -> Job | None:
        """The job that an owner's idempotency key has given, if any."""
        with self.database.read() as connection:
            return self._with_key(connection, owner, idempotency_key)

    def page(self, owner: str | None, *, before: int | None = None, most: int = 50) -> list[Job]:
        """Jobs, the newest first: of one owner, or of all with None. ``before`` is the id of the last one seen.

        Uploads are left out.
        """
        query = select_jobs().where(JOBS.c.endpoint != UPLOAD).order_by(JOBS.c.id.desc()).limit(most)
        if owner is not None:
            query = query.where(JOBS.c.owner == owner)
        if before is not None:
            query = query.where(JOBS.c.id < min(before, 2**53))
        with self.database.read() as connection:
            return [job_of(row) for row in connection.execute(query).mappings()]

    def claim(self, server: str, most: int = 1) -> list[Job]:
        """Mark the jobs that were accepted first as running on ``server`` and return them; no two servers get one."""
        return self.advance(server, (), most)[1]

    def advance(
        self, server: str, ends: Sequence[tuple[Job, Done | Failed]], most: int
    ) -> tuple[list[Job | None], list[Job]]:
        """Several :meth:`finish`, and a :meth:`claim` of ``most`` jobs, in one transaction."""
        with self.database.write() as connection:
            over = [self._finish(connection, job, ended) for job, ended in ends]
            return over, self._claim(connection, server, most) if most > 0 else []

    def finish(self, job: Job, ended: Done | Failed) -> Job | None:
        """Store how a running job ended.

        Args:
            job: as :meth:`claim` gave it.

        Returns:
            The job as it has ended; None where that attempt is not running: it has ended already, or was queued again.
        """
        with self.database.write() as connection:
            return self._finish(connection, job, ended)

    def cancel(self, job_id: int) -> Job | None:
        """Cancel a queued job at once, and mark a running one; returns it as it is then."""
        with self.database.write() as connection:
            queued = sa.update(JOBS).where(JOBS.c.id == job_id, JOBS.c.state == "queued")
            now = self.database.unix_time
            ended = connection.execute(queued.values(state="cancelled", cancel_asked=True, finished=now))
            if ended.rowcount:
                self.webhooks.job_ended(connection, [job_id])
            running = sa.update(JOBS).where(JOBS.c.id == job_id, JOBS.c.state == "running")
            connection.execute(running.values(cancel_asked=True))
        return self.get(job_id)

    def cancelled(self, job: Job) -> bool:
        """Store that a running job was cancelled; False where that attempt is not running.

        Args:
            job: as :meth:`claim` gave it.
        """
        values = {"state": "cancelled", "finished": self.database.unix_time, "cancel_asked": True}
        with self.database.write() as connection:
            if not connection.execute(sa.update(JOBS).where(_is_attempt(job)).values(values)).rowcount:
                return False
            self.webhooks.job_ended(connection, [job.id])
        return True

    def cancel_asked(self, server: str) -> list[int]:
        """Ids of the jobs running on ``server`` that were asked to be cancelled, by whichever process."""
        query = sa.select(JOBS.c.id).where(JOBS.c.state == "running", JOBS.c.server == server, JOBS.c.cancel_asked)
        with self.database.read() as connection:
            return list(connection.execute(query).scalars())

    def requeue(self, job: Job) -> None:
        """Queue a running job again, at its old place; one that was to be cancelled is cancelled.

        Args:
            job: as :meth:`claim` gave it; nothing changes where that attempt is not running.
        """
        with self.database.write() as connection:
            self._requeue(connection, _is_attempt(job))

    def requeue_lost(self, server: str) -> int:
        """Queue again what runs on other servers than ``server`` that have ended; returns how many jobs.

        In a shared database those have ended whose last :meth:`heartbeat` is older than
        :data:`intarsia.server.store.leases.LEASE`.
        """
        with self.database.write() as connection:
            lost = JOBS.c.server != server
            if self._leases is not None:
                lost = sa.and_(lost, JOBS.c.server.not_in(self._leases.alive(connection)))
            return self._requeue(connection, lost)

    def heartbeat(self, server: str) -> None:
        """Say that a server is alive, so that others leave its jobs to it; every few seconds, in a shared database."""
        if self._leases is None:
            return
        with self.database.write() as connection:
            self._leases.renew(connection, server)

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        query = sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state)
        with self.database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def endpoint_counts(self) -> dict[tuple[str, str], int]:
        """Jobs by endpoint and state."""
        columns = (JOBS.c.endpoint, JOBS.c.state)
        query = sa.select(*columns, sa.func.count()).group_by(*columns)
        with self.database.read() as connection:
            return {(endpoint, state): count for endpoint, state, count in connection.execute(query)}

    def queued_before(self, job_id: int) -> int:
        """How many queued jobs will be begun before that one."""
        ahead = sa.select(sa.func.count()).where(JOBS.c.state == "queued", JOBS.c.sequence < _sequence(job_id))
        with self.database.read() as connection:
            return int(connection.execute(ahead).scalar_one())

    def check(self) -> None:
        """Raise where the database cannot be read and written, or its file is not the one that was opened."""
        self._file.check()
        with self.database.write() as connection:
            connection.execute(sa.update(SCHEMA_VERSION).values(version=SCHEMA_VERSION.c.version))

    def lane_rows_before(self, job_id: int) -> tuple[int, int]:
        """Jobs ahead of a queued one, and network evaluations that are queued or running ahead of it."""
        with self.database.read() as connection:
            jobs, rows = connection.execute(AHEAD, {"wanted": job_id}).one()
        return int(jobs), int(rows)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    def _claim(self, connection: sa.Connection, server: str, most: int) -> list[Job]:
        jobs = [job_of(row) for row in connection.execute(self._changes.first, {"most": most}).mappings()]
        if not jobs:
            return []
        if self._leases is not None:
            self._leases.renew(connection, server)  # in the transaction: nobody takes the jobs for lost
        return [self._begin(connection, server, job) for job in jobs]

    def _begin(self, connection: sa.Connection, server: str, job: Job) -> Job:
        claim = {"wanted": job.id, "by": server, **self.database.times()}
        started = connection.execute(self._changes.claim, claim).scalar_one()
        return replace(job, state="running", started=started, attempts=job.attempts + 1)

    def _finish(self, connection: sa.Connection, job: Job, ended: Done | Failed) -> Job | None:
        times = self.database.times()
        end = {"wanted": job.id, "attempt": job.attempts, **ended_values(ended), **times}
        finished = connection.execute(self._changes.end, end).scalar()
        if finished is None:
            return None
        if job.webhook_status:
            connection.execute(self._changes.call, {"wanted": job.id, **times})
        return ended_job(job, ended, finished)

    def _requeue(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
        running = sa.and_(JOBS.c.state == "running", which)
        ended = {"state": "cancelled", "finished": self.database.unix_time}
        asked = sa.update(JOBS).where(running, JOBS.c.cancel_asked).values(ended).returning(JOBS.c.id)
        self.webhooks.job_ended(connection, list(connection.execute(asked).scalars()))

        again = sa.update(JOBS).where(running).values(state="queued", server="", started=None)
        return connection.execute(again).rowcount

    def _with_key(self, connection: sa.Connection, owner: str, idempotency_key: str | None) -> Job | None:
        if idempotency_key is None:
            return None
        query = select_jobs().where(JOBS.c.owner == owner, JOBS.c.idempotency_key == idempotency_key)
        row = connection.execute(query).mappings().first()
        return None if row is None else job_of(row)

    def _check_room(self, connection: sa.Connection, owner: str, most: int, share: int | None) -> Queue:
        jobs, own, lane_rows = connection.execute(QUEUED, {"whose": owner}).one()
        if jobs >= most:
            raise QueueFull(most)
        if share is not None and own >= share:
            raise QueueFull(share, owner)
        return Queue(jobs, own, int(lane_rows))


def _is_attempt(job: Job) -> sa.ColumnElement[bool]:
    """Whether a row is that job, still running in the attempt that ``job`` was claimed for."""
    return sa.and_(JOBS.c.id == job.id, JOBS.c.state == "running", JOBS.c.attempts == job.attempts)


def _sequence(job_id: int) -> sa.ScalarSelect[int]:
    """The place of a job in the order of acceptance."""
    return sa.select(JOBS.c.sequence).where(JOBS.c.id == job_id).scalar_subquery()
