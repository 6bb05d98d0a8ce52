"""How far a run is: rates and lines by hand, lines off a terminal, the report of a run that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from intarsia import batch
from intarsia.batch.ledger.progress import Progress, RateMeter
from intarsia.batch.ledger.progress_file import Running, read_progress, remove_progress, write_progress
from intarsia.batch.live import ProgressLines
from intarsia.batch.ticker import Ticker


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("finished", "failed", "rate", "line"),
    [
        (12_400, 3, 14.24, "12,400/50,000 · 14.2/s · 44 min left · 3 failed"),
        (49_900, 0, 2.0, "49,900/50,000 · 2.0/s · 50 s left · 0 failed"),
        (0, 0, None, "0/50,000 · 0 failed"),
        (20_000, 1_234, 0.5, "20,000/50,000 · 30.0/min · 16.7 h left · 1,234 failed"),
        (0, 0, 0.01, "0/50,000 · 36.0/h · 57.9 days left · 0 failed"),
        (50_000, 0, 3.0, "50,000/50,000 · 3.0/s · 0 s left · 0 failed"),
    ],
)
def test_a_line_of_progress(finished, failed, rate, line):
    assert Progress(rows=50_000, finished=finished, failed=failed, rate=rate).line() == line


def test_a_rate_is_of_the_latest_minute():
    """Ten rows a second after half a minute without any: the beginning is forgotten."""
    clock = Clock()
    meter = RateMeter(clock)
    assert meter.add(0) is None
    clock.now += 30
    assert meter.add(0) is None
    clock.now += 30
    assert meter.add(300) == 300 / 60  # with the warm-up, which was half of it
    for _ in range(30):
        clock.now += 5
        rate = meter.add(int((clock.now - 130) * 10))
    assert rate == 10


def test_a_rate_of_slow_rows_is_of_as_many_as_there_are():
    clock = Clock()
    meter = RateMeter(clock)
    rates = []
    for done in range(1, 60):
        clock.now += 300 if done <= 30 else 600
        rates.append(meter.add(done))
    assert rates[9] == 1 / 300
    assert rates[-1] == 1 / 600


def test_lines_come_whether_or_not_anything_has_happened():
    said: list[str] = []
    lines = ProgressLines(said.append, 0.01)
    with lines:
        lines.show(Progress(rows=9, finished=4, failed=1), done=0)
        deadline = time.monotonic() + 60
        while len(said) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert set(said) == {"4/9 · 1 failed"}
    count = len(said)
    time.sleep(0.05)
    assert len(said) == count


def test_a_ticker_ends_with_its_block_also_where_that_raises():
    with pytest.raises(ZeroDivisionError), Ticker(lambda: None, 1000):
        raise ZeroDivisionError


def test_the_file_is_read_as_it_was_written_and_damage_is_no_run(tmp_path):
    progress = Progress(rows=50, finished=12, failed=3, rate=2.5)
    write_progress(tmp_path, (1, 1), progress)
    write_progress(tmp_path, (2, 3), Progress(rows=1, finished=0, failed=0))
    shard, whole = read_progress(tmp_path)
    assert (shard.progress, whole.progress) == (Progress(rows=1, finished=0, failed=0), progress)
    assert whole.age < 60
    assert whole.line() == "running: 12/50 · 2.5/s · 15 s left · 3 failed"
    assert whole.to_json()["seconds_left"] == 38 / 2.5

    path = tmp_path / ".intarsia-progress.json"
    good = json.loads(path.read_text())
    for change in ({"rows": -1}, {"failed": "3"}, {"rate": 0}, {"rate": 1e-300}, {"time": None}, {"time": True}):
        path.write_text(json.dumps(good | change))
        assert len(read_progress(tmp_path)) == 1, change
    for text in ("", "{", "[]", '{"rows": 1}'):
        path.write_text(text)
        assert len(read_progress(tmp_path)) == 1, text

    remove_progress(tmp_path, (2, 3))
    remove_progress(tmp_path, (2, 3))
    path.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_silent_is_not_said_to_run():
    running = Running(progress=Progress(rows=9, finished=4, failed=0, rate=1.0), age=840.0)
    assert running.line() == "killed, or hanging: 4/9 · 1.0/s · 5 s left · 0 failed; silent for 14 min"
    assert not running.to_json()["is_alive"]


@pytest.mark.slow
def test_a_report_while_it_runs_and_after_a_kill(album, tmp_path):
    """An evaluation takes ten minutes, so the run is still at it; off a terminal it says so in lines."""
    manifest, out = album.manifest(album.rows(3)), tmp_path / "out"
    arguments = ("run", manifest, "--out", out, "--backend", "null", "--threads", 2, "--progress", "0.1")
    command, environment = album.command(*arguments, faults=600.0)
    with subprocess.Popen(
        command, cwd=album.folder, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(3)]
        running = batch.report(out)["running"]
        os.killpg(process.pid, signal.SIGKILL)

    assert said == ["0/3 · 0 failed\n"] * 3
    assert [(each["rows"], each["finished"], each["is_alive"]) for each in running] == [(3, 0, True)]
    first, second, *_ = album.call("report", out).stdout.splitlines()
    assert (first, second) == ("running: 0/3 · 0 failed", "0 rows: none")  # a kill and a pause look the same at first

    assert batch.run(manifest, out, album.options).status["ok"] == 3
    assert batch.report(out)["running"] == []
    assert [path.name for path in out.iterdir() if "progress" in path.name] == []


def test_validate_says_how_far_it_is(album):
    manifest = album.manifest([*album.rows(3), "{"])
    seen: list[Progress] = []
    batch.validate(manifest, album.options, watch=seen.append)
    assert [(each.rows, each.finished, each.failed) for each in seen] == [(4, 1, 0), (4, 2, 0), (4, 3, 0), (4, 4, 1)]
    done = album.call("validate", manifest, "--progress", "0.1")
    assert all(line.endswith("with problems") for line in done.stderr.splitlines())


def test_a_quiet_run_says_nothing(album, tmp_path):
    manifest = album.manifest(album.rows(3))
    done = album.call("run", manifest, "--out", tmp_path / "out", "--backend", "null", "--progress", "0.1", "-q")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_cannot_be_written_is_not_the_progress_files_concern(tmp_path):
    """The results are written there too, and say so."""
    write_progress(tmp_path / "gone", (1, 1), Progress(rows=1, finished=0, failed=0))
    assert not (tmp_path / "gone").exists()
