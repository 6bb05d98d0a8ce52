"""Tables of the job store, and the migrations that bring an older database to them."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from intarsia.server.store.database import Database, StoreError

__all__ = ["JOBS", "SCHEMA_VERSION", "SERVERS", "SWEEPS", "VERSION", "WEBHOOKS", "migrate"]

METADATA = sa.MetaData()

JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    # Grows in the order of acceptance, whatever the clocks say that ids are drawn from.
    sa.Column("sequence", sa.BigInteger, nullable=False),
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
    sa.Index("jobs_by_state", "state", "sequence"),
    sa.Index("jobs_by_end", "expired", "finished"),
    sa.UniqueConstraint("sequence", name="jobs_by_sequence"),
    sa.UniqueConstraint("owner", "idempotency_key", name="jobs_by_idempotency_key"),
)

WEBHOOKS = sa.Table(
    "webhooks",
    METADATA,
    sa.Column("job_id", sa.BigInteger, sa.ForeignKey("jobs.id"), primary_key=True, autoincrement=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("base_url", sa.Text, nullable=False),
    # Random, and the same in every try: by it a receiver finds that it has had a call before.
    sa.Column("call_id", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_attempt", sa.Float),
    sa.Column("last_error", sa.Text, nullable=False, server_default=""),
    sa.Index("webhooks_due", "status", "next_attempt"),
)

SERVERS = sa.Table(
    "servers",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("heartbeat", sa.Float, nullable=False),
)

# One row: the time up to which files were swept, beyond which a clock that jumps is not believed.
SWEEPS = sa.Table("sweeps", METADATA, sa.Column("time", sa.Float, nullable=False))

SCHEMA_VERSION = sa.Table("schema_version", METADATA, sa.Column("version", sa.Integer, nullable=False))

VERSION = 1

# A clock that says less has not been set: September 2020.
_CLOCK_SET = 1.6e9

# By the version that each starts from, the change to the next. It is written out in SQL or with tables of its own:
# the ones above are those of the newest version.
_MIGRATIONS: dict[int, Callable[[sa.Connection], None]] = {}


def migrate(database: Database) -> None:
    """Bring a database to this version's tables, in one transaction; servers that start together take turns.

    Raises:
        StoreError: a newer version of intarsia made it, or it has other tables of these names; nothing is changed.
    """
    with database.write("opened") as connection:
        database.lock(connection, "schema")
        found = _version(connection)
        if found is None:
            METADATA.create_all(connection, checkfirst=False)
            connection.execute(sa.insert(SCHEMA_VERSION).values(version=VERSION))
            _begin_sweeps(connection, database)
            return
        if found > VERSION:
            raise StoreError(
                f"data: the database has version {found}, made by a newer intarsia; this one reads up to {VERSION}"
            )

        for version in range(found, VERSION):
            _MIGRATIONS[version](connection)
        connection.execute(sa.update(SCHEMA_VERSION).values(version=VERSION))


def _begin_sweeps(connection: sa.Connection, database: Database) -> None:
    """Let sweeps begin when the database is made: a clock that jumps before the first one is not believed either.

    A clock that was never set, as of a machine without a battery, says nothing: the first sweep begins then.
    """
    now = database.unix_time
    connection.execute(sa.insert(SWEEPS).from_select(["time"], sa.select(now).where(now > _CLOCK_SET)))


def _version(connection: sa.Connection) -> int | None:
    """The version of a database's tables; None where it has none yet."""
    if not sa.inspect(connection).has_table(SCHEMA_VERSION.name):
        return None
    return connection.execute(sa.select(SCHEMA_VERSION.c.version)).scalar()
