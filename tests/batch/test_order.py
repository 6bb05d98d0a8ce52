"""Which of several lines of a row counts does not hang on the clock: place decides in a file, the run across files."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from intarsia import batch
from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.results import Results, name_of, read_history, result_files
from tests.batch.conftest import FAULTS, image_hashes, lines, python_path

HOUR = 3600
NAMES = (name_of((1, 2)), name_of((1, 1)), "results-ray-1of1-ab.jsonl")


def line(identifier: str, status: str = "ok", seconds: float = 0, **fields: Any) -> Record:
    """A line as of some seconds after the beginning of 2026."""
    at = datetime.fromtimestamp(1767225600 + seconds, UTC).isoformat(timespec="microseconds")
    return Record.from_json({"id": identifier, "status": status, "time": at, **fields})


def written(folder: Path, name: str, records: list[Record], run: int | None = None) -> None:
    with Results(folder / name, run) as results:
        results.add(records)


def counted(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Of each id the latest line's text, and the latest successful one's."""
    history = read_history(result_files(folder))
    return (
        {key: record.text for key, record in history.last.items()},
        {key: record.text for key, record in history.done.items()},
    )


@pytest.mark.parametrize("seconds", [-HOUR, 0, HOUR])
@pytest.mark.parametrize("run", [None, 7])
def test_in_one_file_the_later_line_counts_whatever_the_clock_said(tmp_path, seconds, run):
    """Two lines of one microsecond among them, and lines of versions that did not number their runs."""
    written(tmp_path, "results.jsonl", [
        *(line(name, status, text="old") for name, status in zip("abc", ("ok", "ok", "error"), strict=True)),
        *(line(name, status, seconds, text="new") for name, status in zip("abc", ("ok", "error", "ok"), strict=True)),
    ], run)  # fmt: skip
    assert counted(tmp_path) == ({"a": "new", "b": "new", "c": "new"}, {"a": "new", "b": "old", "c": "new"})
    batch.merge(tmp_path)
    assert counted(tmp_path) == ({"a": "new", "b": "new", "c": "new"}, {"a": "new", "b": "old", "c": "new"})


@pytest.mark.parametrize("seconds", [-HOUR, 0, HOUR])
@pytest.mark.parametrize("names", list(itertools.permutations(NAMES)))
def test_across_files_the_later_run_counts_whatever_the_clock_said(tmp_path, seconds, names):
    statuses = [("ok", "error", "error"), ("error", "ok", "error"), ("ok", "ok", "skipped")]
    for number, (name, made) in enumerate(zip(names, zip(*statuses, strict=True), strict=True)):
        said = zip("abc", made, strict=True)
        records = [line(key, status, number * seconds, text=str(number)) for key, status in said]
        written(tmp_path, name, records, 1000 + number)
    expected = ({"a": "2", "b": "2", "c": "2"}, {"a": "0", "b": "1", "c": "1"})
    assert counted(tmp_path) == expected
    assert batch.merge(tmp_path) == 3
    assert counted(tmp_path) == expected
    assert batch.merge(tmp_path) == 3
    assert [each["run"] for each in lines(tmp_path)] == [1000, 1002, 1001, 1002, 1001, 1002]


def test_a_success_is_kept_where_the_last_line_is_none(tmp_path):
    """Through a merge too: the row need not be run again once its parameters are what they were."""
    (tmp_path / "a.png").write_bytes(b"x")
    done = line("a", outputs=["a.png"], spec_hash="of a", sha256=["1"])
    written(tmp_path, "results-1-of-2.jsonl", [done], 1)
    written(tmp_path, "results-2-of-2.jsonl", [line("b", "error")], 1)
    written(tmp_path, "results.jsonl", [line("a", "error", error="io")], 2)
    for _ in range(2):
        batch.merge(tmp_path)
        history = read_history(result_files(tmp_path))
        assert history.done["a"].to_json() == done.to_json() | {"run": 1}
        assert history.last["a"].status == "error"


def test_lines_of_earlier_versions_are_older_than_any_run_that_follows(tmp_path):
    """They have a time alone, here one of an hour ahead, and of two files the later time counts."""
    ahead = int(time.time()) + HOUR - 1767225600
    written(tmp_path, "results-1-of-2.jsonl", [line("a", "ok", 1, text="old"), line("b", "ok", ahead, text="ahead")])
    written(tmp_path, "results-2-of-2.jsonl", [line("a", "error", 2, text="later"), line("b", text="old")])
    (tmp_path / "results.jsonl").write_text('{"id": "c", "status": "ok", "time": "yesterday", "text": "?"}\n')
    assert counted(tmp_path)[0] == {"a": "later", "b": "ahead", "c": "?"}
    run = read_history(result_files(tmp_path)).next_run()
    assert run == 1767225600 + ahead + 1
    written(tmp_path, "results-1-of-3.jsonl", [line(name, text="new") for name in "abc"], run)
    assert counted(tmp_path)[0] == dict.fromkeys("abc", "new")


@pytest.mark.parametrize("newest", [0, 1, 10**9, 2 * 10**9, 10**12])
def test_the_number_of_a_run_is_above_all_before_it_and_the_clock_where_that_is_right(tmp_path, newest, monkeypatch):
    """So runs of different folders, which know nothing of one another, have the clock's order."""
    monkeypatch.setattr(time, "time", lambda: 1.5e9)
    written(tmp_path, "results.jsonl", [line("a", seconds=-2e9), line("b", seconds=-2e9)], newest)
    assert read_history(result_files(tmp_path)).next_run() == max(newest + 1, 1_500_000_000)


@contextmanager
def clock(ahead: float) -> Iterator[None]:
    """The clock of this process and of workers is so many seconds ahead."""
    right = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: right() + ahead)
        patch.setenv("PYTHONPATH", python_path(FAULTS))
        patch.setenv("INTARSIA_TEST_CLOCK", str(ahead))
        yield


@pytest.mark.every(4)
@pytest.mark.parametrize(("before", "after", "shards"), [(HOUR, 0, 1), (HOUR, 0, 2), (0, HOUR, 1)])
def test_with_a_clock_that_was_set_nothing_is_run_twice_and_the_mended_is_ok(album, tmp_path, before, after, shards):
    rows, out = album.rows(40), tmp_path / "out"
    for number in (3, 11):
        rows[number]["init_image"] = f"photos/late-{number}.png"
    with clock(before):
        for part in range(1, shards + 1):
            batch.run(album.manifest(rows), out, album.with_options(shard=(part, shards)))
    first = {record["time"] for name in result_files(out) for record in lines(out, name.name)}
    assert {round((datetime.fromisoformat(each).timestamp() - time.time()) / HOUR) for each in first} == {before / HOUR}

    for number in (3, 11):
        os.link(album.folder / "photos/1.png", album.folder / f"photos/late-{number}.png")
    with clock(after):
        assert batch.retry(album.manifest(rows), out, album.options).status == {"ok": 2}
        assert (batch.report(out)["ok"], batch.report(out)["error"]) == (40, 0)
        changed = album.manifest([row | {"prompt": f"another {row['id']}"} for row in rows])
        assert batch.run(changed, out, album.options).status == {"ok": 40}
        assert batch.run(changed, out, album.options).before == 40
        batch.merge(out)
        assert batch.run(changed, out, album.options).before == 40
    assert (batch.report(out)["ok"], batch.report(out)["failed"]) == (40, [])
    runs = [json.loads(text)["run"] for text in (out / "results.jsonl").read_text().splitlines()]
    assert runs == sorted(runs)


def test_unfinished_files_go_also_where_their_time_is_to_come(album, tmp_path):
    manifest, out = album.manifest(album.rows(2)), tmp_path / "out"
    out.mkdir()
    parts = [out / f".intarsia-{name}.part" for name in ("results.jsonl", "report.json", "row-0.png-1a2b")]
    for options in (album.options, album.with_options(shard=(1, 2))):
        for path in parts:
            path.write_bytes(b"torn")
            os.utime(path, (time.time() + 2 * HOUR,) * 2)
        batch.run(manifest, out, options)
        assert not [path for path in parts if path.exists()]
    assert len(image_hashes(out)) == 2


@pytest.mark.slow
def test_a_row_that_failed_for_a_while_is_done_once_its_parameters_are_what_they_were(album, tmp_path):
    good = album.rows(2)
    bad, out = [good[0] | {"steps": 0}, good[1]], tmp_path / "out"
    batch.run(album.manifest(good), out, album.options)
    assert batch.run(album.manifest(bad), out, album.options).errors == {"param": 1}
    before = (out / "row-0.png").stat().st_mtime_ns
    stats = batch.run(album.manifest(good), out, album.options)
    assert (stats.before, stats.status) == (1, {"skipped": 1})
    assert (out / "row-0.png").stat().st_mtime_ns == before
    assert (batch.report(out)["ok"], batch.report(out)["failed"]) == (2, [])
    assert batch.run(album.manifest(good), out, album.options).before == 2
