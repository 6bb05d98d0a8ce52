"""Transactions of a database with one writer, committed in groups: several that wait share one flush of the disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import sqlalchemy as sa

__all__ = ["GroupCommit", "execute_plain"]

_MOST = 64
"""Transactions that are committed together: more would let the first of them wait for long."""

# Of a transaction that is not the first in its group.
_SAVE, _RELEASE, _UNDO = "SAVEPOINT own", "RELEASE own", "ROLLBACK TO own"

# Seconds after which a transaction looks whether whoever was to commit its group was interrupted.
_PATIENCE = 1.0


class _Group:
    """One transaction of the database, for several of ours.

    Attributes:
        size: transactions that have ended in it.
        is_changed: one of them has ended well, and another that fails must leave its changes.
        error: why it was not committed, once ``is_over``.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.size = 0
        self.is_changed = False
        self.is_over = threading.Event()
        self.error: BaseException | None = None
        self._transaction = connection.begin()

    @property
    def is_intact(self) -> bool:
        """Whether the database has not given it up, as it may where the disk is full."""
        raw = self.connection.connection.dbapi_connection
        return raw is not None and bool(raw.in_transaction)

    def end(self, error: BaseException | None = None) -> None:
        """Commit it, or undo it for that error."""
        self.error = error
        try:
            if error is None:
                self._transaction.commit()
            else:
                self._transaction.rollback()
        except BaseException as exc:  # noqa: BLE001 - raised in every thread of the group
            self.error = self.error or exc
            self.connection.invalidate()  # it may still be in the middle of the transaction
        finally:
            self.is_over.set()


class GroupCommit:
    """Transactions of one SQLite database, one after the other, each undone or durable once its ``with`` is left."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._open: _Group | None = None
        # Kept between transactions, as taking one from the pool and giving it back takes a quarter of their time.
        self._connection: sa.Connection | None = None

    def close(self) -> None:
        """Close the connection; the next transaction opens another."""
        with self._turn:
            self._disconnect()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction. It sees what those before it in its group have written, which may not be durable yet."""
        with self._own_turn():
            group = self._open = self._open or self._begun()
            # Most are alone in their group: what fails then is undone with it.
            has_savepoint = group.is_changed
            if has_savepoint:
                self._execute(group, _SAVE)
            try:
                yield group.connection
                if has_savepoint:
                    execute_plain(group.connection, _RELEASE)
                group.is_changed = True
            except BaseException as exc:
                if has_savepoint and group.is_intact:
                    self._execute(group, _UNDO)
                else:
                    self._end(group, exc)
                raise
            finally:
                group.size += 1
                # The last one that waits commits for all before it.
                if self._open is group and (not self._waiting or group.size >= _MOST):
                    self._end(group)
        self._wait(group)

    def _begun(self) -> _Group:
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            return _Group(self._connection)
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _execute(self, group: _Group, statement: str) -> None:
        """Execute a statement about a savepoint; the whole group ends where it fails."""
        try:
            execute_plain(group.connection, statement)
        except BaseException as exc:
            self._end(group, exc)
            raise

    @contextmanager
    def _own_turn(self) -> Iterator[None]:
        self._count(1)
        try:
            self._turn.acquire()
        finally:
            self._count(-1)
        try:
            yield
        finally:
            self._turn.release()

    def _count(self, change: int) -> None:
        with self._counting:
            self._waiting += change

    def _end(self, group: _Group, error: BaseException | None = None) -> None:
        self._open = None
        group.end(error)
        if group.connection.invalidated:
            self._disconnect()

    def _wait(self, group: _Group) -> None:
        while not group.is_over.wait(_PATIENCE):
            with self._turn:
                if self._open is group:
                    self._end(group)
        if group.error is not None:
            raise group.error


def execute_plain(connection: sa.Connection, statement: str) -> None:
    """Execute a statement of SQLite without parameters and results, past SQLAlchemy, which takes ten times as long."""
    raw = cast(sqlite3.Connection, connection.connection.dbapi_connection)
    raw.execute(statement)
