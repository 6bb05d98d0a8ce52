"""Files behind fsspec, in a folder and in memory: what a store in a folder of this machine does, they do too."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest

pytest.importorskip("fsspec", reason="needs fsspec: pip install 'intarsia[serve-ray]'")

from intarsia.errors import OutputError
from intarsia.server.store.files import output_names
from intarsia.server.store.remote_files import RemoteFiles

FAR = 4e9  # Unix time


@pytest.fixture(params=["folder", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> RemoteFiles:
    url = tmp_path.as_uri() if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    return RemoteFiles(url)


def test_inputs_and_outputs_come_back_and_go(files):
    name = files.put_input(b"input")
    [output] = output_names(1)
    files.put_outputs([(output, b"first")])
    files.put_outputs([(output, b"second")])
    assert (files.input(name), files.output(output), files.output_bytes()) == (b"input", b"second", 6)
    assert files.remove_inputs([name], FAR) == 0
    assert files.remove_inputs([], FAR) == 1
    with pytest.raises(OutputError, match="cannot be read"):
        files.input(name)
    files.remove_outputs([output, output])
    assert files.output(output) is None
    files.check()


def test_what_a_killed_process_left_unfinished_is_removed_once_it_is_old(tmp_path, monkeypatch):
    files = RemoteFiles(tmp_path.as_uri())
    monkeypatch.setattr(files._system, "mv", lambda *_: None)  # killed before it
    [output] = output_names(1)
    sha256 = files.put_input(b"input")
    files.put_outputs([(output, b"output")])
    files.check()
    others = [tmp_path / "inputs" / f"{sha256}.txt", tmp_path / "outputs" / "notes.0123456789abcdef"]
    for path in others:
        path.write_bytes(b"of somebody else")
    unfinished = [path for path in tmp_path.rglob("*") if path.is_file() and path not in others]
    assert len(unfinished) == 3

    files.remove_inputs([], time.time() - 3600)
    assert all(path.exists() for path in unfinished)
    for path in (*unfinished, *others):
        os.utime(path, (1.6e9, 1.6e9))
    files.remove_inputs([], time.time() - 3600)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)
