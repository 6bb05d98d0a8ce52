"""The file store of a server and the lock of its folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from intarsia.errors import OutputError
from intarsia.server.store.files import FolderLock, LocalFiles, is_output_name, output_names

DATA = b"the bytes of an image"
SHA256 = hashlib.sha256(DATA).hexdigest()
FAR = 4e9  # Unix time


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path)


def aged(path: Path, seconds: float) -> None:
    os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def test_an_input_is_found_by_the_hash_of_its_bytes_and_kept_once(files):
    assert files.put_input(DATA) == files.put_input(DATA) == SHA256
    assert files.input(SHA256) == DATA
    assert [path.name for path in (files.root / "inputs").iterdir()] == [SHA256]


@pytest.mark.parametrize("name", ["../jobs.sqlite3", "", "A" * 64, "a" * 63, "/etc/passwd"])
def test_only_a_hash_names_an_input(files, name):
    with pytest.raises(OutputError, match="named by a SHA-256"):
        files.input(name)


def test_an_input_that_is_not_there_is_one_line(files):
    with pytest.raises(OutputError, match="cannot be read"):
        files.input("0" * 64)


def test_names_of_outputs_cannot_be_guessed_and_differ_from_others():
    names = [name for _ in range(200) for name in output_names(4)]
    assert len(set(names)) == 800
    assert all(map(is_output_name, names))
    assert not any(map(is_output_name, ["", "x.png", "../" + names[0], names[0] + "/..", names[0] + "\n", "lock"]))


def test_outputs_are_written_replaced_counted_and_removed(files):
    one, two = output_names(2)
    files.put_outputs([(one, b"first"), (two, b"22")])
    files.put_outputs([(one, b"again!"), (two, b"22")])
    assert (files.output(one), files.output(two)) == (b"again!", b"22")
    assert (files.output_bytes(), files.output_bytes([one]), files.output_bytes(output_names(1))) == (8, 6, 0)

    files.remove_outputs([one, *output_names(1)])
    assert (files.output(one), files.output_bytes()) == (None, 2)
    assert len(list((files.root / "outputs").iterdir())) == 1


@pytest.mark.parametrize("name", ["../inputs/x", "jobs.sqlite3", ""])
def test_nothing_else_is_written_read_or_removed(files, name):
    for act in (lambda: files.put_outputs([(name, b"")]), lambda: files.output(name)):
        with pytest.raises(OutputError, match="not the name of an output"):
            act()
    with pytest.raises(OutputError):
        files.remove_outputs([name])


def test_old_inputs_go_unless_they_are_needed(files):
    old, needed, new = (files.put_input(data) for data in (b"old", b"needed", b"new"))
    other = files.root / "inputs" / "notes.txt"
    other.write_bytes(b"of someone else")
    for name in (old, needed, other.name):
        aged(files.root / "inputs" / name, 100)
    before = (files.root / "inputs" / new).stat().st_mtime - 50
    assert files.remove_inputs({needed}, before) == 1
    assert {path.name for path in (files.root / "inputs").iterdir()} == {needed, new, other.name}


def test_an_old_input_that_comes_again_is_new(files):
    files.put_input(DATA)
    path = files.root / "inputs" / SHA256
    aged(path, 1e6)
    before = path.stat().st_mtime + 1
    files.put_input(DATA)
    assert files.remove_inputs((), before) == 0


def test_an_input_that_comes_while_old_ones_are_removed_is_there(files):
    """Each time it is old enough to go; whoever puts it must find it afterwards."""
    files.put_input(DATA)
    path, stop = files.root / "inputs" / SHA256, threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            files.remove_inputs((), 1000.0)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for _ in range(100):
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (1.0, 1.0))
            files.put_input(DATA)
            assert files.input(SHA256) == DATA
    finally:
        stop.set()
        sweeper.join()


def test_what_a_killed_process_left_unfinished_goes(files):
    left = files.root / "outputs" / f".intarsia-{'0' * 16}.part"
    left.write_bytes(b"half an image")
    files.remove_inputs((), left.stat().st_mtime)
    assert left.exists()  # it may still be written
    files.remove_inputs((), FAR)
    assert not left.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for act in (LocalFiles, FolderLock):
        with pytest.raises(OutputError, match=r"^data: the folder .* cannot be (made|used): Not a directory$"):
            act(tmp_path / "file" / "data")


HOLDING = """
import sys
from pathlib import Path
from intarsia.server.store.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_has_one_server_until_that_has_ended_however_it_ends(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=rf"in use by a server \(process {holder.pid}\)$"):
            FolderLock(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    lock = FolderLock(tmp_path)
    with pytest.raises(OutputError, match=rf"in use by a server \(process {os.getpid()}\)$"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()
