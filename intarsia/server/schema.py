"""Tables of the job store, and the migrations that bring an older database to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from intarsia.errors import IntarsiaError

__all__ = ["JOBS", "SCHEMA_VERSION", "VERSION", "WEBHOOKS", "migrate"]

METADATA = sa.MetaData()

JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("delivery", sa.Text, nullable=False),
    sa.Column("warnings", sa.Text, nullable=False),
    sa.Column("meta", sa.Text, nullable=False),
    sa.Column("files", sa.Text, nullable=False),
    sa.Column("temp", sa.Boolean, nullable=False),
    sa.Column("lane_rows", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("server", sa.Text, nullable=False, server_default=""),
    sa.Column("cancel_asked", sa.Boolean, nullable=False),
    sa.Column("expired", sa.Boolean, nullable=False),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("error_kind", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Index("jobs_by_state", "state", "id"),
    sa.Index("jobs_by_end", "expired", "finished"),
    sa.UniqueConstraint("owner", "idempotency_key", name="jobs_by_idempotency_key"),
)

WEBHOOKS = sa.Table(
    "webhooks",
    METADATA,
    sa.Column("job_id", sa.BigInteger, sa.ForeignKey("jobs.id"), primary_key=True, autoincrement=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_attempt", sa.Float),
    sa.Column("last_error", sa.Text, nullable=False, server_default=""),
    sa.Index("webhooks_due", "status", "next_attempt"),
)

SCHEMA_VERSION = sa.Table("schema_version", METADATA, sa.Column("version", sa.Integer, nullable=False))


def _create(connection: sa.Connection) -> None:
    METADATA.create_all(connection)


# Each takes a database from the version of its place to the next; the first makes the tables.
_MIGRATIONS: Sequence[Callable[[sa.Connection], None]] = (_create,)

VERSION = len(_MIGRATIONS)


def migrate(database: sa.Engine) -> None:
    """Bring a database to this version's tables, each step in a transaction.

    Raises:
        IntarsiaError: a newer version of intarsia made it.
    """
    with database.begin() as connection:
        SCHEMA_VERSION.create(connection, checkfirst=True)
        found = connection.execute(sa.select(SCHEMA_VERSION.c.version)).scalar()
        if found is None:
            connection.execute(sa.insert(SCHEMA_VERSION).values(version=0))
            found = 0
        if found > VERSION:
            raise IntarsiaError(
                f"data: the database has version {found}, made by a newer intarsia; this one reads up to {VERSION}"
            )
        for step in range(found, VERSION):
            _MIGRATIONS[step](connection)
            connection.execute(sa.update(SCHEMA_VERSION).values(version=step + 1))
