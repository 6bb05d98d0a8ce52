"""A real PostgreSQL for tests: a server of its own in a temporary folder, and an empty database for each test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Of a test's server nothing has to survive the machine.
_OPTIONS = "-c listen_addresses='' -c fsync=off -c synchronous_commit=off -c full_page_writes=off"


class PostgresServer:
    """A server that is reached through a socket in its folder, without a password.

    Args:
        folder: empty; removed when the server is stopped.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        # It refuses to be run by root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", str(folder / "data"), "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"{_OPTIONS} -k {folder}"
        log = str(folder / "log")
        self._run("pg_ctl", "-D", str(folder / "data"), "-o", options, "-l", log, "-w", "-s", "start")

    def new_database(self) -> str:
        """The SQLAlchemy URL of another empty database."""
        import psycopg

        self._count += 1
        name = f"test{self._count}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def stop(self) -> None:
        """End it, and every connection to it, and remove its folder."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "-s", "stop")
        shutil.rmtree(self._folder)

    def _address(self, name: str) -> str:
        return f"host={self._folder} user=postgres dbname={name}"

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


def missing() -> str:
    """Why there can be no server here; empty where there can."""
    for command in ("initdb", "pg_ctl"):
        if shutil.which(command) is None:
            return f"PostgreSQL is not installed: no {command}"
    if os.geteuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        return "PostgreSQL is not run by root, and there is no user postgres"
    try:
        import psycopg  # noqa: F401
    except ModuleNotFoundError:
        return "psycopg is not installed"
    return ""


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running server; the test is skipped, with the reason, where there can be none."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="intarsia-pg-")))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store's empty database is: each test runs with SQLite and with PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    return request.getfixturevalue("postgres").new_database()
