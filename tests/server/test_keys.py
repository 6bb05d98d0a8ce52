"""Keys: the file of hashes, whose key it is, and the commands that change it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from intarsia.cli import app
from intarsia.errors import OutputError, RequestError
from intarsia.server.http import keys_editing
from intarsia.server.http.keys import Keys, candidate_key, generate_key, without_generated
from intarsia.server.http.keys_editing import add_key, remove_key

ANN, BOB = "intarsia_" + "A" * 43, "intarsia_" + "B" * 43


def line(name: str, key: str) -> str:
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(f"# who may send requests\n\n{line('ann', ANN)}  {line('bob', BOB)}")
    path.chmod(0o600)
    return path


def test_a_key_has_its_owner_and_any_other_text_has_none(file):
    keys = Keys.read(file)
    assert keys.names == ("ann", "bob")
    assert (keys.owner(ANN), keys.owner(BOB)) == ("ann", "bob")
    for other in (None, "", ANN[:-1], ANN + "A", ANN.lower(), "ann", line("ann", ANN).split()[1], "x" * 10_000_000):
        assert keys.owner(other) is None


@given(st.text(st.characters()))
def test_no_text_is_a_key_or_an_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any-keys.txt"
    if not path.exists():
        path.write_text(line("ann", ANN))
    assert Keys.read(path).owner(text) is None


def test_every_entry_is_compared_also_after_one_fits(file, monkeypatch):
    compared = []
    real = Keys.owner.__globals__["hmac"].compare_digest

    def compare(left: Any, right: Any) -> bool:
        compared.append(left)
        return real(left, right)

    monkeypatch.setattr("intarsia.server.http.keys.hmac.compare_digest", compare)
    keys = Keys.read(file)
    for candidate in (ANN, BOB, "neither"):
        compared.clear()
        keys.owner(candidate)
        assert len(compared) == 2


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"ann", "line 1: a line must be NAME sha256:HASH"),
        (b"\n# x\nann sha256:00\n", "line 3: a line must be"),
        (b"ann sha1:" + b"0" * 64, "line 1: a line must be"),
        (b"ann sha256:" + b"G" * 64, "line 1: a line must be"),
        (b"ann sha256:" + b"0" * 64 + b" more", "line 1: a line must be"),
        (b"a/b sha256:" + b"0" * 64, "line 1: a name must be 1 to 64 of"),
        (b"-a sha256:" + b"0" * 64, "line 1: a name must be"),
        (b"a" * 65 + b" sha256:" + b"0" * 64, "line 1: a name must be"),
        (b"\xff sha256:" + b"0" * 64, "line 1: it is not UTF-8"),
        ((line("ann", ANN) + line("ann", BOB)).encode(), "line 2: the name ann is in line 1 too"),
        ((line("ann", ANN) + line("bob", ANN)).encode(), "line 2: the same key is in line 1 too"),
        (b"#" * (1 << 20) + b"#", "is larger than 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_and_line(tmp_path, content, complaint):
    path = tmp_path / "keys.txt"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        Keys.read(path)
    assert str(caught.value).startswith(f"keys file {path}")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_in_the_file_itself_is_not_repeated_in_the_error(tmp_path):
    path = tmp_path / "keys.txt"
    for content in (f"ann {ANN}\n", f"{ANN}\n", f"{ANN}/ sha256:00\n"):
        path.write_text(content)
        with pytest.raises(RequestError) as caught:
            Keys.read(path)
        assert ANN not in str(caught.value)


def test_files_of_windows_editors_are_read(tmp_path):
    path = tmp_path / "keys.txt"
    path.write_bytes(b"\xef\xbb\xbf" + line("ann", ANN).replace("\n", "\r\n").encode() + b"\r\n# x\r\n")
    assert Keys.read(path).owner(ANN) == "ann"


def test_a_file_that_is_not_there_is_no_file_or_is_open_to_all_is_refused(tmp_path, file):
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        Keys.read(tmp_path / "none")
    with pytest.raises(RequestError, match=r"cannot be read: Is a directory|no regular file"):
        Keys.read(tmp_path)
    with pytest.raises(RequestError, match="cannot be read"):
        Keys.read(tmp_path / "a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RequestError, match="no regular file"):
        Keys.read(tmp_path / "pipe")
    file.chmod(0o606)
    with pytest.raises(RequestError, match="can be written by everybody"):
        Keys.read(file)


def test_a_changed_file_is_read_again(file):
    keys = Keys.read(file)
    other = add_key(file, "eve")
    assert keys.owner(other) == "eve"
    remove_key(file, "ann")
    assert (keys.owner(ANN), keys.owner(BOB), keys.owner(other)) == (None, "bob", "eve")


def test_the_last_key_can_be_taken_from_a_server_that_runs(run, file, caplog):
    keys = Keys.read(file)
    assert run("remove", "ann", "--file", file).stderr == ""
    assert "has no key any more: a server with it refuses every request" in run("remove", "bob", "--file", file).stderr
    with caplog.at_level(logging.WARNING, "intarsia"):
        assert [keys.owner(key) for key in (ANN, BOB, ANN)] == [None] * 3
    assert caplog.text.count("has no key any more") == 1
    with pytest.raises(RequestError, match="has no key, so nobody could send a request: intarsia keys add NAME"):
        Keys.read(file)


def test_a_file_that_becomes_wrong_keeps_the_last_keys_and_is_reported_once(file, caplog):
    keys = Keys.read(file)
    good = file.read_text()
    with caplog.at_level(logging.ERROR, "intarsia"):
        file.write_text(good + "nonsense\n")
        assert [keys.owner(ANN) for _ in range(3)] == ["ann"] * 3
        assert [record.getMessage().count("line 5") for record in caplog.records] == [1]

        caplog.clear()
        file.unlink()
        assert [keys.owner(ANN) for _ in range(3)] == ["ann"] * 3
        assert ["No such file" in record.getMessage() for record in caplog.records] == [True]

    file.write_text(line("bob", BOB))
    assert (keys.owner(ANN), keys.owner(BOB)) == (None, "bob")


def test_generated_keys_have_256_random_bits_and_are_found_in_texts():
    keys = {generate_key() for _ in range(200)}
    assert len(keys) == 200
    assert {len(key) for key in keys} == {len("intarsia_") + 43}
    for key in keys:
        assert without_generated(f"a {key}, b/{key}?") == "a ***, b/***?"


def test_where_a_request_has_its_key():
    headers = {"key": "of-header", "authorization": "Bearer of-bearer"}
    assert candidate_key({"key": "of-body"}, headers) == "of-body"
    for body in (None, {}, {"key": None}, {"key": 5}, {"key": ["x"]}, {"key": ""}, {"key": " "}):
        assert candidate_key(body, headers) == "of-header"
    assert candidate_key(None, {"authorization": "Bearer of-bearer"}) == "of-bearer"
    assert candidate_key(None, {"authorization": "bearer   x  "}) == "x"
    for value in ("Basic eDp5", "Bearer", "Bearer  ", "", "of-bearer"):
        assert candidate_key(None, {"authorization": value}) is None
    assert candidate_key(None, {}) is None


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)


@settings(max_examples=40)
@given(JSON, st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_in_headers_and_any_json_in_the_body_give_a_text_or_none(value, key, authorization):
    headers = {"key": key.decode("latin-1"), "authorization": authorization.decode("latin-1")}
    candidate = candidate_key({"key": value}, headers)
    assert candidate is None or (isinstance(candidate, str) and candidate == candidate.strip() != "")


@pytest.fixture
def run() -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(app, ["keys", *map(str, arguments)])


def test_add_prints_the_key_once_and_keeps_only_its_hash(run, tmp_path):
    path = tmp_path / "keys.txt"
    done = run("add", "ann", "--file", path)
    assert done.exit_code == 0
    key = done.stdout.strip()
    assert path.read_text() == line("ann", key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key not in done.stderr
    assert Keys.read(path).owner(key) == "ann"
    assert list(tmp_path.iterdir()) == [path]


def test_add_appends_and_changes_nothing_else(run, file):
    before = file.read_text().rstrip("\n")
    file.write_text(before)  # without the last line break
    key = run("add", "eve", "--file", file).stdout.strip()
    assert file.read_text() == f"{before}\n{line('eve', key)}"


def test_a_name_that_is_taken_or_not_allowed_changes_nothing(run, file):
    before = file.read_text()
    for name, complaint in (("ann", "ann has a key in"), ("a b", "NAME must be 1 to 64"), ("ä", "NAME must be")):
        done = run("add", name, "--file", file)
        assert isinstance(done.exception, RequestError)
        assert complaint in str(done.exception)
        assert done.stdout == ""
    assert file.read_text() == before


def test_add_to_a_wrong_file_or_folder_changes_nothing(run, file, tmp_path):
    file.write_text("nonsense\n")
    assert isinstance(run("add", "eve", "--file", file).exception, RequestError)
    assert file.read_text() == "nonsense\n"
    assert isinstance(run("add", "eve", "--file", tmp_path / "none" / "keys.txt").exception, OutputError)


def test_a_change_keeps_the_mode_and_a_link(run, file, tmp_path):
    file.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    run("add", "eve", "--file", link)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert Keys.read(file).names == ("ann", "bob", "eve")


def test_a_failure_while_writing_leaves_the_file_as_it_was(run, file, monkeypatch):
    before = file.read_text()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    done = run("add", "eve", "--file", file)
    assert isinstance(done.exception, OutputError)
    assert "No space left" in str(done.exception)
    assert done.stdout == ""
    assert file.read_text() == before
    assert list(file.parent.iterdir()) == [file]


def test_list_shows_names_and_beginnings_of_hashes(run, file):
    hashes = [hashlib.sha256(key.encode()).hexdigest() for key in (ANN, BOB)]
    shown = run("list", "--file", file).stdout
    assert shown == f"ann\tsha256:{hashes[0][:12]}…\nbob\tsha256:{hashes[1][:12]}…\n"
    rows = json.loads(run("list", "--json", "--file", file).stdout)["keys"]
    assert rows == [{"name": "ann", "hash": f"sha256:{hashes[0]}"}, {"name": "bob", "hash": f"sha256:{hashes[1]}"}]


def test_remove_takes_out_one_line(run, file):
    assert run("remove", "ann", "--file", file).exit_code == 0
    assert file.read_text() == f"# who may send requests\n\n  {line('bob', BOB)}"
    done = run("remove", "ann", "--file", file)
    assert str(done.exception) == f"ann has no key in {file}; names in it: bob"


def test_remove_finds_a_name_behind_a_byte_order_mark(run, tmp_path):
    path = tmp_path / "keys.txt"
    path.write_bytes(b"\xef\xbb\xbf" + (line("ann", ANN) + line("bob", BOB)).encode())
    assert run("remove", "ann", "--file", path).exit_code == 0
    assert Keys.read(path).names == ("bob",)


def test_no_key_is_lost_when_two_are_added_at_the_same_time(file, monkeypatch):
    both_read = threading.Barrier(2)
    real = keys_editing.read_file

    def read_file(path: Path) -> Any:
        content = real(path)
        # Without a lock both get here before either has written; with one, the second comes after the first.
        with contextlib.suppress(threading.BrokenBarrierError):
            both_read.wait(0.3)
        return content

    monkeypatch.setattr(keys_editing, "read_file", read_file)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: add_key(file, name), ("eve", "dan")))
    assert sorted(Keys.read(file).names) == ["ann", "bob", "dan", "eve"]
