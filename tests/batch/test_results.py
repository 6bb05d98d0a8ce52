"""What results.jsonl can take: torn lines, full disks, several files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intarsia import batch
from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.results import Results, read_history, read_lines, result_files
from intarsia.errors import OutputError
from tests.batch.conftest import image_hashes, lines


def line(identifier: str, status: str = "ok", time: str = "2026-01-01", **fields: Any) -> Record:
    return Record.from_json({"id": identifier, "status": status, "time": time, **fields})


def test_a_torn_last_line_costs_that_line_alone(tmp_path):
    path = tmp_path / "results.jsonl"
    with Results(path) as results:
        results.add([line("a"), line("b")])
    whole = path.read_bytes()
    for cut in range(len(whole.splitlines()[0]) + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert [each.id for each in read_lines(path)] == (["a"] if cut < len(whole) - 1 else ["a", "b"])
        with Results(path) as results:
            results.add([line("c")])
        assert [each.id for each in read_lines(path)][-1] == "c"
        assert len(list(read_lines(path))) == (2 if cut < len(whole) - 1 else 3)


def test_foreign_lines_are_no_results(tmp_path):
    (tmp_path / "results.jsonl").write_text(
        '[1]\n{"id": 3, "status": "ok"}\n{"id": "x"}\nnull\n' + json.dumps(line("a").to_json())
    )
    assert [each.id for each in read_lines(tmp_path / "results.jsonl")] == ["a"]


def test_of_several_lines_the_latest_counts_and_the_latest_successful_one_is_kept(tmp_path):
    with Results(tmp_path / "results.jsonl") as results:
        results.add([line("a", time="1", spec_hash="old"), line("a", "error", time="3"), line("b", time="2")])
    with Results(tmp_path / "results-1-of-2.jsonl") as results:
        results.add([line("a", time="2", spec_hash="new"), line("b", "error", time="1")])
    (tmp_path / "results-old.jsonl").write_text(json.dumps(line("c").to_json()))  # not one of ours
    history = read_history(result_files(tmp_path))
    assert (history.last["a"].status, history.done["a"].spec_hash) == ("error", "new")
    assert history.last["b"].status == "ok"
    assert "c" not in history.last


def test_a_write_that_fails_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    with Results(path) as results:
        results.add([line("a")])
        real = os.write

        def full(handle: int, data: bytes) -> None:
            real(handle, data[:20])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        monkeypatch.setattr("intarsia.batch.ledger.results._ROOM_WITHIN_S", 0.1)
        with pytest.raises(OutputError, match="No space left on device"):
            results.add([line("b")])
        monkeypatch.setattr(os, "write", real)
        results.add([line("c")])
    assert [each.id for each in read_lines(path)] == ["a", "c"]
    assert path.read_text().count("\n") == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_line_waits_for_room_on_a_full_disk(tmp_path, monkeypatch, number):
    """As while an image is written that will not fit: its part takes the last blocks until it is removed."""
    path, real, tries = tmp_path / "results.jsonl", os.write, []

    def full(handle: int, data: bytes) -> int:
        tries.append(data)
        if len(tries) > 3:
            return real(handle, data)
        real(handle, data[:20])
        raise OSError(number, os.strerror(number))

    with Results(path) as results:
        results.add([line("a")])
        monkeypatch.setattr(os, "write", full)
        results.add([line("b"), line("c")])
    assert len(tries) == 4
    assert [each.id for each in read_lines(path)] == ["a", "b", "c"]
    assert path.read_text().count("\n") == 3


def test_other_failures_of_a_write_do_not_wait(tmp_path, monkeypatch):
    tries = []

    def broken(handle: int, data: bytes) -> int:
        tries.append(data)
        raise OSError(errno.EIO, "Input/output error")

    with Results(tmp_path / "results.jsonl") as results:
        monkeypatch.setattr(os, "write", broken)
        with pytest.raises(OutputError, match="Input/output error"):
            results.add([line("a")])
    assert len(tries) == 1


def watched(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """What is flushed to the disk, in order: "folder", or a file's content at that moment."""
    real, steps = os.fsync, []

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        is_folder = found.st_ino == folder.stat().st_ino
        steps.append("folder" if is_folder else Path(f"/proc/self/fd/{handle}").read_text())
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return steps


def test_what_was_added_is_on_the_disk(tmp_path, monkeypatch):
    steps = watched(monkeypatch, tmp_path)
    with Results(tmp_path / "results.jsonl") as results:
        assert steps == ["folder"]  # the name of the file
        for count in (1, 2):
            results.add([line("a"), line("b")])
            assert len(steps) == count + 1
            assert steps[-1] == (tmp_path / "results.jsonl").read_text()
    assert steps[-1].count("\n") == 4


def test_what_was_merged_is_on_the_disk_before_the_parts_go(tmp_path, monkeypatch):
    for name in "ab":
        with Results(tmp_path / f"results-{'ab'.index(name) + 1}-of-2.jsonl") as results:
            results.add([line(name)])
    steps = watched(monkeypatch, tmp_path)
    replace, unlink = os.replace, Path.unlink
    monkeypatch.setattr(os, "replace", lambda *paths: steps.append("replace") or replace(*paths))
    monkeypatch.setattr(Path, "unlink", lambda path: steps.append("unlink") or unlink(path))
    batch.merge(tmp_path)
    assert steps == [(tmp_path / "results.jsonl").read_text(), "replace", "folder", "unlink", "unlink"]


def test_an_interrupt_after_a_line_costs_no_line(tmp_path, monkeypatch):
    """Whenever it comes, what is there are whole lines, and a failure later takes back its own alone."""
    path, real = tmp_path / "results.jsonl", os.fsync

    def interrupted(handle: int) -> None:
        real(handle)
        raise KeyboardInterrupt

    with Results(path) as results:
        results.add([line("a")])
        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            results.add([line("b")])
        monkeypatch.setattr(os, "fsync", real)
        results.add([line("c")])
    assert [each.id for each in read_lines(path)] == ["a", "c"]


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system in memory on a folder; skipped, with the reason, where that may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here (that needs root)")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_rows_and_tears_nothing(album, tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(noise).save(album.folder / "photos/big.png")  # 190 KiB as a PNG, whatever is done
    Image.fromarray(np.uint8(255 * (noise[..., 0] > 250))).save(album.folder / "masks/big.png")
    big = {"init_image": "photos/big.png", "mask_image": "masks/big.png"}
    manifest, out = album.manifest([album.row(number, **big) for number in range(12)]), tmp_path / "out"
    with mounted(out, "size=1m"):
        stats = batch.run(manifest, out, album.options)
        done = image_hashes(out)  # every one whole
        assert 1 <= len(done) < 12
        assert stats.errors["io"] == 12 - len(done)
        assert all("No space left" in each["text"] for each in lines(out) if each["status"] == "error")
        assert not list(out.glob(".intarsia-*.part"))
        subprocess.run(["mount", "-o", "remount,size=32m", str(out)], check=True)
        assert batch.run(manifest, out, album.options).before == len(done)
        full = image_hashes(out)
    batch.run(manifest, tmp_path / "reference", album.options)
    assert full == image_hashes(tmp_path / "reference")


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(album, tmp_path):
    """Root may write anywhere but on a file system that is read-only."""
    out, manifest = tmp_path / "out", album.manifest(album.rows(2))
    if os.geteuid() == 0:
        with mounted(out, "ro"), pytest.raises(OutputError, match="cannot be used for outputs: Read-only file system"):
            batch.run(manifest, out, album.options)
        return
    out.mkdir(mode=0o555)
    with pytest.raises(OutputError, match="cannot be used for outputs: Permission denied"):
        batch.run(manifest, out, album.options)


def test_a_file_in_the_place_of_the_folder(album, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot be used for outputs: it is a file, not a folder"):
        batch.run(album.manifest(album.rows(1)), tmp_path / "out", album.options)


def test_report_and_merge_need_results(tmp_path):
    for call in (batch.report, batch.merge):
        with pytest.raises(OutputError, match="holds no results"):
            call(tmp_path)
