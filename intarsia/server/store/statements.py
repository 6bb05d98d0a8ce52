"""Statements that every request executes, each made once: SQLAlchemy takes longer to make one than SQLite to run it.

Parameters that are no columns are named in the comment before each.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from intarsia.server.store.database import Database
from intarsia.server.store.job_rows import select_jobs
from intarsia.server.store.jobs import Done, Failed
from intarsia.server.store.schema import JOBS, WEBHOOKS

__all__ = ["AHEAD", "INSERT_JOB", "JOB", "QUEUED", "JobChanges", "ended_values"]

_LAST = sa.select(sa.func.coalesce(sa.func.max(JOBS.c.sequence), 0)).scalar_subquery()

# A new job, behind all others.
INSERT_JOB = sa.insert(JOBS).values(sequence=_LAST + 1)

# One job; wanted: its id.
JOB = select_jobs().where(JOBS.c.id == sa.bindparam("wanted", type_=JOBS.c.id.type))

_IS_QUEUED = JOBS.c.state == "queued"
_IS_AHEAD = sa.or_(_IS_QUEUED, JOBS.c.state == "running")  # a list would be written out anew each time
_IS_OWN = sa.and_(_IS_QUEUED, JOBS.c.owner == sa.bindparam("whose", type_=JOBS.c.owner.type))

# Queued jobs of all owners and of one, and network evaluations that are queued or running; whose: that owner.
QUEUED = sa.select(
    sa.func.count(sa.case((_IS_QUEUED, 1))),
    sa.func.count(sa.case((_IS_OWN, 1))),
    sa.func.coalesce(sa.func.sum(JOBS.c.lane_rows), 0),
).where(_IS_AHEAD)

_PLACE = sa.select(JOBS.c.sequence).where(JOBS.c.id == sa.bindparam("wanted", type_=JOBS.c.id.type)).scalar_subquery()

# Jobs that are queued or running ahead of one, and their network evaluations; wanted: its id.
AHEAD = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(JOBS.c.lane_rows), 0)).where(
    _IS_AHEAD, JOBS.c.sequence < _PLACE
)

# What the end of a job changes, besides its time.
_ENDED = ("state", "result", "error", "error_kind")


class JobChanges:
    """Statements of the changes that every job goes through.

    Their time is a parameter too, of :meth:`intarsia.server.store.database.Database.times`.

    Attributes:
        first: the jobs that were accepted first of those that are queued; most: how many. PostgreSQL passes over those
            that another server is claiming.
        claim: one of these is running from now on, which returns the time; wanted: its id, and by: the server.
        end: a running job is done or has failed, which returns the time; wanted: its id, attempt: in which attempt, and
            new_state, new_result, new_error and new_error_kind.
        call: its webhook is due; wanted: its id.
    """

    def __init__(self, database: Database) -> None:
        now = database.time_in_statements
        job = JOBS.c
        wanted = sa.bindparam("wanted", type_=job.id.type)
        self.first = (
            select_jobs()
            .where(job.state == "queued")
            .order_by(job.sequence)
            .limit(sa.bindparam("most", type_=sa.Integer))
            .with_for_update(skip_locked=True, of=JOBS)
        )
        self.claim = (
            sa.update(JOBS)
            .where(job.id == wanted)
            .values(state="running", server=sa.bindparam("by"), started=now, attempts=job.attempts + 1)
            .returning(job.started)
        )
        is_attempt = sa.and_(job.id == wanted, job.state == "running", job.attempts == sa.bindparam("attempt"))
        ended = {name: sa.bindparam(f"new_{name}", type_=job[name].type) for name in _ENDED}
        self.end = sa.update(JOBS).where(is_attempt).values(finished=now, **ended).returning(job.finished)
        waits = sa.and_(WEBHOOKS.c.job_id == wanted, WEBHOOKS.c.status == "waiting")
        self.call = sa.update(WEBHOOKS).where(waits).values(status="due", next_attempt=now)


def ended_values(ended: Done | Failed) -> dict[str, Any]:
    """Parameters of :attr:`JobChanges.end`, without those that say which job."""
    if isinstance(ended, Done):
        result = json.dumps(dict(ended.result))
        return {"new_state": "done", "new_result": result, "new_error": "", "new_error_kind": ""}
    return {"new_state": "failed", "new_result": None, "new_error": ended.message, "new_error_kind": ended.kind}
