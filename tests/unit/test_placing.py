"""Files put in place: all or none, whatever fails or interrupts, and what is swept."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from intarsia.errors import OutputError
from intarsia.images import atomic_files as placing
from intarsia.images.atomic_files import place, sweep, sweep_once

NAMES = ("1.png", "2.png", "3.png")


def contents(folder: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def files(folder: Path, names: Iterable[str] = NAMES) -> list[tuple[Path, bytes]]:
    return [(folder / name, f"new {name}".encode()) for name in names]


@pytest.fixture
def half_full(tmp_path: Path) -> Path:
    (tmp_path / "1.png").write_bytes(b"old")
    (tmp_path / "3.png").write_bytes(b"old too")
    return tmp_path


def calls_of(
    monkeypatch: pytest.MonkeyPatch, step: str, act: Callable[[int], object], when: str = "before"
) -> list[int]:
    """At the n-th call of an operating system's function, before or after it, ``act(n)``."""
    original, count = getattr(os, step), [0]

    def call(*arguments: object, **more: Any) -> Any:
        count[0] += 1
        if when == "before":
            act(count[0])
        value = original(*arguments, **more)
        if when == "after":
            act(count[0])
        return value

    monkeypatch.setattr(placing.os, step, call)
    return count


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("step", ["open", "fsync", "link", "replace", "fstat"])
@pytest.mark.parametrize(
    ("error", "when"),
    [(OSError(errno.ENOSPC, "No space left on device"), "before"), (KeyboardInterrupt(), "before"),
     (KeyboardInterrupt(), "after")],
    ids=["full", "interrupted before", "interrupted after"],
)  # fmt: skip
def test_all_or_none_wherever_it_fails(tmp_path, monkeypatch, overwrite, step, error, when):
    for name in ("1.png", "3.png") if overwrite else ():
        (tmp_path / name).write_bytes(b"old")
    before = contents(tmp_path)
    expected = {"open": 4, "fsync": 4, "fstat": 3, "link": 2 if overwrite else 3, "replace": 3 if overwrite else 0}
    raised = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    for number in range(1, expected[step] + 1):

        def fail(count: int, at: int = number) -> None:
            if count == at:
                raise error

        with monkeypatch.context() as patch:
            calls_of(patch, step, fail, when)
            with pytest.raises(raised):
                place(files(tmp_path), overwrite=overwrite)
        assert contents(tmp_path) == before, f"call {number}"
    count = calls_of(monkeypatch, step, lambda count: None)
    place(files(tmp_path), overwrite=overwrite)
    assert count == [expected[step]]
    assert contents(tmp_path) == {name: f"new {name}".encode() for name in NAMES}


def test_a_name_that_is_taken_meanwhile_is_not_ours_to_remove(tmp_path, monkeypatch):
    calls_of(monkeypatch, "link", lambda count: count == 2 and (tmp_path / "2.png").write_bytes(b"somebody's"))
    with pytest.raises(OutputError, match=r"2\.png cannot be written: File exists"):
        place(files(tmp_path), overwrite=False)
    assert contents(tmp_path) == {"2.png": b"somebody's"}


@pytest.mark.parametrize("failing", [None, 2])
def test_file_systems_without_hard_links(half_full, monkeypatch, failing):
    before = contents(half_full)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def fail(count: int) -> None:
        if count == failing:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(placing.os, "link", refuse)
        calls_of(patch, "replace", fail)
        if failing:
            with pytest.raises(KeyboardInterrupt):
                place(files(half_full), overwrite=True)
        else:
            place(files(half_full), overwrite=True)
    assert contents(half_full) == (before if failing else {name: f"new {name}".encode() for name in NAMES})


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_that_is_replaced_is_put_back_as_a_link(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "1.png").symlink_to("elsewhere")

    def fail(count: int) -> None:
        if count == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        calls_of(patch, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            place(files(tmp_path), overwrite=True)
    assert os.readlink(tmp_path / "1.png") == "elsewhere"
    assert sorted(os.listdir(tmp_path)) == ["1.png", "elsewhere"]
    place(files(tmp_path), overwrite=True)
    assert not (tmp_path / "1.png").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_the_folder_is_flushed_after_the_names_are_there(tmp_path, monkeypatch):
    seen = []

    def watch(count: int) -> None:
        seen.append(sorted(name for name in os.listdir(tmp_path) if name in NAMES))

    calls_of(monkeypatch, "fsync", watch)
    place(files(tmp_path), overwrite=False)
    assert seen == [[], [], [], list(NAMES)]


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    day = placing.ABANDONED_HOURS * 3600
    ours = tmp_path / ".intarsia-0123456789abcdef.part"
    others = [
        ".intarsia-0123456789abcdef.old", ".intarsia-results.jsonl.part", ".intarsia-0123456789abcde.part", "x.part",
        ".intarsia-0123456789ABCDEF.part", "intarsia-0123456789abcdef.part",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".intarsia-1111111111111111.part").mkdir()
    (tmp_path / ".intarsia-2222222222222222.part").symlink_to("x.part")
    ours.write_bytes(b"half")
    written = ours.stat().st_mtime
    assert sweep(tmp_path, now=written + day - 1) == []
    assert sweep(tmp_path, now=written + day + 60) == [ours]
    assert sorted(os.listdir(tmp_path)) == sorted(
        [*others, ".intarsia-1111111111111111.part", ".intarsia-2222222222222222.part"]
    )
    assert sweep(tmp_path / "nowhere") == []


def test_a_folder_is_looked_through_once(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(placing, "sweep", looked.append)
    for _ in range(3):
        sweep_once(tmp_path)
    assert looked == [tmp_path]


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_what_is_put_back_is_the_very_file(half_full, monkeypatch):
    os.chmod(half_full / "1.png", 0o600)
    before = (half_full / "1.png").stat()

    def fail(count: int) -> None:
        if count == 3:
            raise KeyboardInterrupt

    calls_of(monkeypatch, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        place(files(half_full), overwrite=True)
    after = (half_full / "1.png").stat()
    assert (after.st_ino, stat.S_IMODE(after.st_mode), after.st_mtime_ns) == (before.st_ino, 0o600, before.st_mtime_ns)
