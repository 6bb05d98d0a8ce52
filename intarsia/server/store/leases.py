"""Which servers of a shared database are alive: each renews its row every few seconds, by the database's clock."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from intarsia.server.store.database import Database
from intarsia.server.store.schema import SERVERS

__all__ = ["HEARTBEAT", "LEASE", "Leases"]

LEASE = 15.0
"""Seconds after its last heartbeat for which a server's jobs are left to it."""

HEARTBEAT = 4.0
"""Seconds between heartbeats: two may be late before a server is taken for dead."""

_FORGOTTEN_AFTER = 86400.0


class Leases:
    """The heartbeats of the servers that share a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = _insert(database)

    def renew(self, connection: sa.Connection, server: str) -> None:
        """Note that a server is alive now."""
        now = self._database.unix_time
        row = self._insert(SERVERS).values(name=server, heartbeat=now)
        connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"heartbeat": now}))

    def alive(self, connection: sa.Connection) -> list[str]:
        """Names of the servers whose lease has not run out; those of days ago are forgotten."""
        now = self._database.unix_time
        connection.execute(sa.delete(SERVERS).where(SERVERS.c.heartbeat < now - _FORGOTTEN_AFTER))
        return list(connection.execute(sa.select(SERVERS.c.name).where(SERVERS.c.heartbeat >= now - LEASE)).scalars())


def _insert(database: Database) -> Any:
    """The database's own INSERT, which can update a row instead; PostgreSQL's is not imported for SQLite."""
    if database.is_sqlite:
        from sqlalchemy.dialects import sqlite

        return sqlite.insert
    from sqlalchemy.dialects import postgresql

    return postgresql.insert
