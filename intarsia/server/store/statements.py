"""Statements that every request executes, each made once: SQLAlchemy takes longer to make one than SQLite to run it.

Parameters that are no columns are named in the comment before each.
"""

from __future__ import annotations

import sqlalchemy as sa

from intarsia.server.store.job_rows import select_jobs
from intarsia.server.store.schema import JOBS

__all__ = ["AHEAD", "INSERT_JOB", "JOB", "QUEUED"]

_LAST = sa.select(sa.func.coalesce(sa.func.max(JOBS.c.sequence), 0)).scalar_subquery()

# A new job, behind all others.
INSERT_JOB = sa.insert(JOBS).values(sequence=_LAST + 1)

# One job; wanted: its id.
JOB = select_jobs().where(JOBS.c.id == sa.bindparam("wanted", type_=JOBS.c.id.type))

_IS_OWN = sa.case((JOBS.c.owner == sa.bindparam("whose", type_=JOBS.c.owner.type), 1), else_=0)

# Queued jobs of all owners, and of one; whose: that one.
QUEUED = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(_IS_OWN), 0)).where(JOBS.c.state == "queued")

_PLACE = sa.select(JOBS.c.sequence).where(JOBS.c.id == sa.bindparam("wanted", type_=JOBS.c.id.type)).scalar_subquery()

# Jobs that are queued or running ahead of one, and their network evaluations; wanted: its id.
AHEAD = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(JOBS.c.lane_rows), 0)).where(
    JOBS.c.state.in_(["queued", "running"]), JOBS.c.sequence < _PLACE
)
