"""Transactions that are committed together: each is durable when it returns, and one that fails fails alone."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy: pip install 'intarsia[serve]'")

from intarsia.server.store import group_commit
from intarsia.server.store.database import Database, StoreError


class Counted:
    """A database with a table of numbers; its transactions meet while the first of them is held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = Database(path)
        self.commits = 0
        with self.database.write() as connection:
            connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER PRIMARY KEY, text TEXT)")
        sa.event.listen(self.database._writer, "commit", self._committed)

    def _committed(self, _connection: object) -> None:
        self.commits += 1

    def add(self, number: int, text: str = "", fail: bool = False) -> list[int]:
        """Adds a number in a transaction; returns what another connection sees once it is left."""
        with self.database.write() as connection:
            self._act(connection, number, text)
            if fail:
                raise ZeroDivisionError
        return self.seen()

    def seen(self) -> list[int]:
        with sqlite3.connect(self.path) as connection:
            return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number")]

    def together(self, *calls: object) -> list[Any]:
        """Results or errors of calls of ``add`` that all wait before the first of them is committed."""
        held, release = threading.Event(), threading.Event()

        def first() -> Any:
            with self.database.write() as connection:
                self._act(connection, 0)
                held.set()
                release.wait(20)
            return self.seen()

        with ThreadPoolExecutor(len(calls) + 1) as pool:
            futures = [pool.submit(first)]
            held.wait(20)
            futures += [pool.submit(self.add, *arguments) for arguments in calls]
            while self.database._groups._waiting < len(calls):
                threading.Event().wait(0.001)
            release.set()
            return [future.exception() or future.result() for future in futures]

    @staticmethod
    def _act(connection: sa.Connection, number: int, text: str = "") -> None:
        connection.execute(sa.text("INSERT INTO numbers VALUES (:number, :text)"), {"number": number, "text": text})


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    made = Counted(tmp_path / "numbers.sqlite3")
    yield made
    made.database.close()


def test_one_by_one_each_is_committed_by_itself(counted):
    assert counted.add(1) == [1]
    assert counted.add(2) == [1, 2]
    assert counted.commits == 2


def test_those_that_wait_share_a_commit_and_return_after_it(counted):
    assert counted.together((1,), (2,), (3,)) == [[0, 1, 2, 3]] * 4
    assert counted.commits == 1


def test_only_those_that_join_others_have_savepoints(counted, monkeypatch):
    executed: list[str] = []
    execute = group_commit.execute_plain

    def noting(connection: sa.Connection, statement: str) -> None:
        executed.append(statement)
        execute(connection, statement)

    monkeypatch.setattr(group_commit, "execute_plain", noting)
    assert counted.add(7) == [7]
    assert executed == []
    counted.together((1,), (2, "", True))
    pairs = {tuple(executed[:2]), tuple(executed[2:])}  # whichever of the two had its turn first
    assert pairs == {("SAVEPOINT own", "RELEASE own"), ("SAVEPOINT own", "ROLLBACK TO own")}


def test_the_first_of_a_group_that_fails_takes_nothing_with_it(counted):
    with pytest.raises(ZeroDivisionError):
        counted.add(1, "", True)
    assert counted.seen() == []
    assert counted.together((2,)) == [[0, 2]] * 2


def test_one_that_fails_is_undone_alone(counted):
    results = counted.together((1,), (2, "", True), (0,), (3,))
    assert isinstance(results[2], ZeroDivisionError)
    assert isinstance(results[3], sa.exc.IntegrityError)
    assert [results[index] for index in (0, 1, 4)] == [[0, 1, 3]] * 3


@pytest.mark.parametrize("failing", [(1, "", True), (0,)])
def test_where_the_last_one_fails_the_others_are_committed_none_the_less(counted, failing):
    assert counted.together(failing)[0] == [0]
    assert counted.add(5) == [0, 5]


def test_a_commit_that_fails_fails_for_all_and_the_next_begins_anew(counted, monkeypatch):
    def fail(connection: object) -> None:
        raise sa.exc.OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))

    sa.event.listen(counted.database._writer, "commit", fail)
    results = counted.together((1,), (2,))
    assert [type(result) for result in results] == [StoreError] * 3
    assert str(results[0]) == "the database cannot be written: disk I/O error"
    sa.event.remove(counted.database._writer, "commit", fail)
    assert counted.seen() == []
    assert counted.add(7) == [7]


def test_where_the_database_gives_a_transaction_up_nothing_of_it_is_said_to_be_there(counted):
    with counted.database.write() as connection:  # the connection of every transaction
        connection.exec_driver_sql("PRAGMA max_page_count = 20")
    results = counted.together((1,), (2, "x" * 1_000_000), (3,))
    seen = counted.seen()
    for number, result in enumerate(results):
        assert (number in seen) == isinstance(result, list)
    assert isinstance(results[2], StoreError)
    assert "full" in str(results[2])


def test_many_at_once_lose_nothing(counted):
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(counted.add, range(400)))
    assert counted.seen() == list(range(400))
    assert counted.commits <= 400
