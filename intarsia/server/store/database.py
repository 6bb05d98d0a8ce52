"""The database behind the job store: SQLite or PostgreSQL through SQLAlchemy Core, opened, and in transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from intarsia.errors import IntarsiaError, named, one_line
from intarsia.server.store.group_commit import GroupCommit, execute_plain

__all__ = ["Database", "StoreError"]

# What transactions of several servers wait for, as keys of PostgreSQL's advisory locks; "intarsia" in ASCII.
_NAMESPACE = 0x696E7461
_LOCKS = {"schema": 1, "acceptance": 2}

# Seconds that a transaction waits for another one, before it fails.
_PATIENCE = 30

# Connections that are kept open: one for each thread that reads at a time. Opening one takes longer than most reads.
_POOL: dict[str, Any] = {"pool_size": 64, "max_overflow": 64}

# Seconds between tries where SQLite does not wait by itself.
_AGAIN = 0.02

_CONNECT_SECONDS = 10


class StoreError(IntarsiaError):
    """The database cannot be opened, read or written.

    Nothing of the change was made, unless the connection to a database server broke just as it was being committed.

    Args:
        public: what clients are told; empty is all of it. A database server's own words name its host and user.
    """

    exit_code = 2

    def __init__(self, message: str, *, public: str = "") -> None:
        super().__init__(message)
        self.public = public or message


class Database:
    """One database. Every method may be called from any thread.

    Args:
        where: path of a SQLite file, or a SQLAlchemy URL: ``sqlite:///path`` or ``postgresql+psycopg://…``.
        clock: Unix time in seconds; None is this machine's clock for SQLite, and the database's own for PostgreSQL,
            so that a machine whose clock jumps does not mislead the others.

    Raises:
        StoreError: the database cannot be opened.
    """

    def __init__(self, where: str | Path, clock: Callable[[], float] | None = None) -> None:
        with _translated("the database cannot be opened"):
            url = _url(where)
            self.is_sqlite = url.get_backend_name() == "sqlite"
            self._engine = _sqlite(url) if self.is_sqlite else _postgresql(url)

        if clock is None and self.is_sqlite:
            clock = time.time
        self._clock = clock
        self._writer = self._engine.execution_options(intarsia_writes=True)
        self._groups = GroupCommit(self._writer) if self.is_sqlite else None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with _translated("the database cannot be read"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, what: str = "written") -> Iterator[sa.Connection]:
        """A transaction, durable once the ``with`` is left; undone where an exception leaves it. They do not nest.

        Raises:
            IntegrityError: a row contradicts another one.
        """
        transaction = self._writer.begin() if self._groups is None else self._groups.transaction()
        with _translated(f"the database cannot be {what}"), transaction as connection:
            yield connection

    def lock(self, connection: sa.Connection, what: Literal["schema", "acceptance"]) -> None:
        """Wait until no other transaction has that lock, and hold it until this one ends. SQLite has one writer."""
        if not self.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_NAMESPACE, _LOCKS[what])))

    @property
    def unix_time(self) -> sa.ColumnElement[float]:
        """The time in seconds, for a statement."""
        if self._clock is not None:
            return sa.literal(self._clock(), sa.Float)
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)

    @property
    def time_in_statements(self) -> sa.ColumnElement[float]:
        """As :attr:`unix_time`, for a statement that is made once and executed with :meth:`times`."""
        return self.unix_time if self._clock is None else sa.bindparam("now", type_=sa.Float)

    def times(self) -> dict[str, float]:
        """The parameters of statements with :attr:`time_in_statements`."""
        return {} if self._clock is None else {"now": self._clock()}

    def now(self) -> float:
        """The time in seconds."""
        if self._clock is not None:
            return self._clock()
        with self.read() as connection:
            return connection.execute(sa.select(self.unix_time)).scalar_one()

    @property
    def path(self) -> Path | None:
        """The file of SQLite; None for a database server."""
        return Path(self._engine.url.database or "") if self.is_sqlite else None

    def close(self) -> None:
        """Close every connection."""
        if self._groups is not None:
            self._groups.close()
        self._engine.dispose()


def _url(where: str | Path) -> sa.URL:
    if isinstance(where, Path):
        return sa.URL.create("sqlite", database=str(where))  # as text, a question mark in it would begin options
    try:
        return sa.make_url(where)
    except ValueError as exc:  # a port that is no number
        raise StoreError(f"database: that is not the URL of a database: {one_line(exc)}") from exc


def _journal_ahead(connection: sqlite3.Connection) -> None:
    """Write-ahead journaling. While another connection changes to it, SQLite refuses at once instead of waiting."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_AGAIN)


def _sqlite(url: sa.URL) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise StoreError("database: SQLite needs the path of a file, as in sqlite:////var/lib/intarsia/jobs.sqlite3")
    if url.query:  # which SQLAlchemy would ignore, or take for a database in memory or one that cannot be written
        raise StoreError(
            f"database: the URL of a SQLite file has no options here, such as {named(next(iter(url.query)))}"
        )
    engine = sa.create_engine(url, connect_args={"timeout": _PATIENCE, "check_same_thread": False}, **_POOL)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        # Readers do not wait for the writer, and a commit is on the disk before it returns.
        _journal_ahead(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        # Python's module would begin transactions itself: late, and not for changes of tables.
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A transaction that became a writer only after it has read could be refused.
        writes = connection.get_execution_options().get("intarsia_writes")
        execute_plain(connection, "BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        max_overflow=15,
        connect_args={"connect_timeout": _CONNECT_SECONDS},
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: object) -> None:
        # A server that hangs in the middle of a transaction must not stop the others for good.
        connection.execute(f"SET lock_timeout = '{_PATIENCE}s'")
        connection.execute(f"SET idle_in_transaction_session_timeout = '{2 * _PATIENCE}s'")
        connection.commit()

    return engine


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except ModuleNotFoundError as exc:
        needed = 'pip install "intarsia[serve-postgres]"'
        raise StoreError(f"{what}: {exc.name} is missing ({needed})") from exc
    except (SQLAlchemyError, sqlite3.Error) as exc:
        cause = getattr(exc, "orig", None) or exc
        public = "" if isinstance(cause, sqlite3.Error) else f"{what}; the server's log says why"
        raise StoreError(f"{what}: {one_line(cause)}", public=public) from exc
