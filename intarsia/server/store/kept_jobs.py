"""What retention asks of the database: which jobs' images and rows are over, and which inputs are needed."""

from __future__ import annotations

import json

import sqlalchemy as sa

from intarsia.server.store.database import Database
from intarsia.server.store.job_rows import inputs_of, job_of, select_jobs
from intarsia.server.store.jobs import ENDED, Job
from intarsia.server.store.schema import JOBS, SWEEPS, WEBHOOKS

__all__ = ["KeptJobs"]


class KeptJobs:
    """Ended jobs and their images, by age."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sweep_time(self, ahead: float) -> float:
        """The time that ages are measured by, in a sweep that begins now.

        That is the clock's, but at most so many seconds after the last sweep's: where a clock jumps to another year,
        files go too early by no more than that for each sweep, and not all at once. A database that has never been
        swept begins with its clock.
        """
        now = self._database.now()
        with self._database.write() as connection:
            last: float | None = connection.execute(sa.select(SWEEPS.c.time)).scalar()
            if last is None:
                connection.execute(sa.insert(SWEEPS).values(time=now))
                return now
            believed = min(now, last + ahead)
            connection.execute(sa.update(SWEEPS).values(time=believed))
        return believed

    def ends_not_after(self, ahead: float) -> int:
        """Let jobs that ended more than so many seconds in the future end now; returns how many.

        A clock that has since been set back said so. Their images would be kept until that time comes.
        """
        now = self._database.unix_time
        future = sa.update(JOBS).where(sa.not_(JOBS.c.expired), JOBS.c.finished > now + ahead)
        with self._database.write() as connection:
            return connection.execute(future.values(finished=now)).rowcount

    def over(self, before: float, temp_before: float, *, after: Job | None = None, most: int = 200) -> list[Job]:
        """Ended jobs whose images are still there and whose time is over, the oldest first.

        Args:
            before, temp_before: Unix times; the second is for jobs with ``temp``.
            after: the last one of the page before.
        """
        is_over = sa.or_(JOBS.c.finished < before, sa.and_(JOBS.c.temp, JOBS.c.finished < temp_before))
        return self._ended(is_over, after, most)

    def oldest(self, *, after: Job | None = None, most: int = 200) -> list[Job]:
        """Ended jobs whose images are still there, the oldest first; arguments as of :meth:`over`."""
        return self._ended(sa.true(), after, most)

    def expire(self, job_id: int) -> None:
        """Note that a job's images have been removed."""
        with self._database.write() as connection:
            connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(expired=True))

    def forget(self, before: float) -> int:
        """Remove the rows of expired jobs that ended before that Unix time; returns how many."""
        old = sa.select(JOBS.c.id).where(JOBS.c.expired, JOBS.c.finished < before)
        with self._database.write() as connection:
            connection.execute(sa.delete(WEBHOOKS).where(WEBHOOKS.c.job_id.in_(old)))
            return connection.execute(sa.delete(JOBS).where(JOBS.c.id.in_(old))).rowcount

    def needed_inputs(self) -> set[str]:
        """Hashes of the inputs of jobs that have not ended."""
        query = sa.select(JOBS.c.request).where(JOBS.c.state.not_in(ENDED))
        with self._database.read() as connection:
            requests = connection.execute(query).scalars().all()
        return {sha256 for text in requests for sha256 in inputs_of(json.loads(text))}

    def _ended(self, condition: sa.ColumnElement[bool], after: Job | None, most: int) -> list[Job]:
        query = select_jobs().where(JOBS.c.state.in_(ENDED), sa.not_(JOBS.c.expired), condition)
        if after is not None:
            later = sa.and_(JOBS.c.finished == after.finished, JOBS.c.id > after.id)
            query = query.where(sa.or_(JOBS.c.finished > after.finished, later))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(JOBS.c.finished, JOBS.c.id).limit(most)).mappings()
            return [job_of(row) for row in rows]
