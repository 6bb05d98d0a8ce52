"""Databases that cannot be used, and databases of other versions: one clear line, and nothing half done."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sa = pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy: pip install 'intarsia[serve]'")

from intarsia.server.store import schema
from intarsia.server.store.jobs import Done, Job, WebhookTarget
from intarsia.server.store.store import Store, StoreError

FIRST_VERSION = Path(__file__).with_name("schema_version_1.sql")


def refusal(where: str | Path) -> str:
    """The one line with which a database is refused."""
    with pytest.raises(StoreError) as caught:
        Store(where)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


def tables(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def columns(path: Path) -> set[tuple[str, ...]]:
    """Table, name, type and whether it may be null, of every column; and the indexes."""
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        found = {(name,) for name in names}
        for name in names:
            found |= {(name, *row[1:4]) for row in connection.execute(f"PRAGMA table_info({name!r})")}
    return found


def test_a_folder_is_no_database(tmp_path):
    assert refusal(tmp_path) == "the database cannot be opened: unable to open database file"


def test_a_file_that_is_no_database_stays_as_it_is(tmp_path):
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(b"notes, not tables\n" * 100)
    assert refusal(path) == "the database cannot be opened: file is not a database"
    assert path.read_bytes() == b"notes, not tables\n" * 100


def test_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.owner() == Path.home().owner() and "pytest" in str(parent):
            parent.chmod(0o755)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)  # a user whom the folder's mode binds
    try:
        assert refusal(folder / "jobs.sqlite3") == "the database cannot be opened: unable to open database file"
    finally:
        if is_root:
            os.seteuid(0)
    assert list(folder.iterdir()) == []


def test_a_full_disk_refuses_a_job_whole_and_takes_the_next_once_there_is_room(tmp_path):
    store = Store(tmp_path / "jobs.sqlite3")
    store.accept(Job(id=1, endpoint="community"), most=99)
    _limit_pages(store, 40)  # as a disk of 160 KiB

    large = Job(id=2, endpoint="community", meta={"prompt": "long " * 100_000})
    with pytest.raises(StoreError, match=r"^the database cannot be written: database or disk is full$"):
        store.accept(large, most=99, idempotency_key="k", webhook=WebhookTarget("http://e.org", ""))
    assert (store.counts(), store.webhooks.counts(), store.get(2)) == ({"queued": 1}, {}, None)

    (claimed,) = store.claim("here")
    with pytest.raises(StoreError):
        store.finish(claimed, Done({"text": "long " * 100_000}))
    assert store.get(1).state == "running"

    _limit_pages(store, 100_000)
    assert store.accept(large, most=99, idempotency_key="k")[1]
    assert store.finish(claimed, Done({}))
    store.close()


def _limit_pages(store: Store, pages: int) -> None:
    with store.database.write() as connection:  # the connection of every transaction
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url):
    assert "needs the path of a file" in refusal(url)


@pytest.mark.parametrize("options", ["mode=ro", "uri=true", "mode=memory&cache=shared&uri=true", "timeout=5"])
def test_options_of_a_sqlite_url_are_refused(tmp_path, options):
    assert "has no options here" in refusal(f"sqlite:///{tmp_path}/jobs.sqlite3?{options}")
    assert list(tmp_path.iterdir()) == []


def test_urls_that_are_none_or_of_what_is_not_installed():
    assert "pg8000 is missing" in refusal("postgresql+pg8000://localhost/x")
    assert "URL of a database" in refusal("postgresql+psycopg://user:secret@host:port/name")
    assert "secret" not in refusal("postgresql+psycopg://user:secret@host:port/name")
    assert "the database cannot be opened" in refusal("nothing at all")


def test_a_database_server_that_is_not_there_is_one_line_without_the_password():
    message = refusal("postgresql+psycopg://user:secret@127.0.0.1:1/name")
    assert message.startswith("the database cannot be opened: ")
    assert "secret" not in message


def test_what_a_database_server_says_of_itself_is_for_the_log_alone():
    with pytest.raises(StoreError, match=r"127\.0\.0\.1") as caught:
        Store("postgresql+psycopg://user@127.0.0.1:1/name")
    assert caught.value.public == "the database cannot be opened; the server's log says why"


def test_what_sqlite_says_is_for_everybody(tmp_path):
    with pytest.raises(StoreError) as caught:
        Store(tmp_path)
    assert caught.value.public == str(caught.value)


@pytest.mark.parametrize("name", ["what?.sqlite3", "a b#c%20.sqlite3", "mode=ro&x.sqlite3"])
def test_a_path_is_taken_as_it_is_whatever_is_in_it(tmp_path, name):
    store = Store(tmp_path / name)
    store.accept(Job(id=1, endpoint="community"), most=1)
    store.close()
    assert (tmp_path / name).is_file()


def test_a_newer_database_is_refused_by_name_and_not_touched(tmp_path):
    path = tmp_path / "jobs.sqlite3"
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    before = tables(path)
    expected = f"data: the database has version 99, made by a newer intarsia; this one reads up to {schema.VERSION}"
    assert refusal(path) == expected
    assert tables(path) == before


def test_another_programs_tables_are_not_taken_for_ours(tmp_path):
    path = tmp_path / "jobs.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (title TEXT)")
    assert "already exists" in refusal(path)
    assert list(tables(path)) == ["jobs"]


def test_a_database_of_version_1_is_brought_to_this_version(tmp_path):
    """The file was written by that version; later ones migrate it as a server of theirs would."""
    path = tmp_path / "jobs.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.executescript(FIRST_VERSION.read_text())
    Store(tmp_path / "new.sqlite3").close()

    store = Store(path)
    queued, done = store.get(11), store.get(12)
    assert (queued.state, queued.request, queued.webhook_status) == ("queued", {"prompt": "a"}, "waiting")
    assert (done.state, done.result, done.files) == ("done", {"seconds": 1.5}, ("x.png",))
    assert [job.id for job in store.claim("here", 9)] == [11]
    store.close()
    # A column that is added without a migration is found here.
    assert columns(path) == columns(tmp_path / "new.sqlite3")


def _add_column(connection: sa.Connection) -> None:
    connection.execute(sa.text("ALTER TABLE jobs ADD COLUMN color TEXT"))


def _add_column_and_fail(connection: sa.Connection) -> None:
    _add_column(connection)
    connection.execute(sa.text("ALTER TABLE absent ADD COLUMN color TEXT"))


def test_a_migration_happens_once_and_whole(tmp_path, monkeypatch):
    path = tmp_path / "jobs.sqlite3"
    store = Store(path)
    store.accept(Job(id=1, endpoint="community"), most=1)
    store.close()

    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    monkeypatch.setitem(schema._MIGRATIONS, schema.VERSION - 1, _add_column_and_fail)
    assert "no such table" in refusal(path)
    assert "color" not in tables(path)["jobs"]

    monkeypatch.setitem(schema._MIGRATIONS, schema.VERSION - 1, _add_column)
    for _ in range(2):
        store = Store(path)
        assert store.get(1) == Job(id=1, endpoint="community")
        store.close()
    assert "color" in tables(path)["jobs"]


def test_servers_that_start_together_make_the_tables_once(database):
    barrier = threading.Barrier(6)

    def start(number: int) -> Store:
        barrier.wait(30)
        store = Store(database, shared=True)
        store.accept(Job(id=number, endpoint="community"), most=99)
        return store

    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(start, range(1, 7)))
    assert stores[0].counts() == {"queued": 6}
    for store in stores:
        store.close()
