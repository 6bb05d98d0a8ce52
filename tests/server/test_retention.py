"""What is kept and what goes, with clocks that the test sets, also to years ahead and back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs SQLAlchemy: pip install 'intarsia[serve]'")

from intarsia.errors import OutputError
from intarsia.server.settings import DAY
from intarsia.server.store import retention
from intarsia.server.store.files import LocalFiles, output_names
from intarsia.server.store.jobs import Done, Failed, Job
from intarsia.server.store.kept_jobs import KeptJobs
from intarsia.server.store.retention import Retention
from intarsia.server.store.store import Store

MINUTE, HOUR, YEAR = 60.0, 3600.0, 365 * DAY


class Kept:
    """A store, its files and their retention, on clocks of their own; a second of both passes together."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root, self.now, self.monotonic = root, 1.7e9, 5.0
        self.options = {"keep": 7 * DAY, "disk_limit": None} | options
        self.files = LocalFiles(root)
        self.store = Store(root / "jobs.sqlite3", clock=lambda: self.now)
        self.restart()

    def restart(self) -> None:
        jobs = KeptJobs(self.store.database)
        self.retention = Retention(jobs, self.files, monotonic=lambda: self.monotonic, **self.options)

    def pass_time(self, seconds: float) -> None:
        """Time passes, with a sweep now and then."""
        for _ in range(10):
            self.now += seconds / 10
            self.monotonic += seconds / 10
            self.retention.sweep()

    def done(self, number: int, size: int = 100, **fields: Any) -> Job:
        """A job that ends now, with an image of so many bytes."""
        job = Job(id=number, endpoint="community", files=output_names(1), **fields)
        self.store.accept(job, most=99)
        (claimed,) = self.store.claim("here")
        self.files.put_outputs([(job.files[0], b"x" * size)])
        self.store.finish(claimed, Done({}))
        return job

    def has(self, job: Job) -> bool:
        """Whether its image is there; the store must say the same."""
        there = self.files.output(job.files[0]) is not None
        assert self.store.get(job.id).expired != there
        return there


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    made.retention.sweep()
    yield made
    made.store.close()


def test_images_go_when_their_time_is_over(kept):
    job, temporary = kept.done(1), kept.done(2, delivery={"temp": True})
    kept.pass_time(DAY - MINUTE)
    assert kept.has(temporary)
    kept.pass_time(2 * MINUTE)
    assert (kept.has(temporary), kept.has(job)) == (False, True)
    kept.pass_time(6 * DAY - 2 * MINUTE)
    assert kept.has(job)
    kept.pass_time(2 * MINUTE)
    assert not kept.has(job)


def test_temporary_images_go_earlier_where_everything_does(tmp_path):
    kept = Kept(tmp_path, keep=HOUR)
    job = kept.done(1, delivery={"temp": True})
    kept.pass_time(HOUR + MINUTE)
    assert not kept.has(job)
    kept.store.close()


def test_jobs_that_have_not_ended_are_kept(kept):
    kept.store.accept(Job(id=1, endpoint="community", files=output_names(1)), most=9)
    kept.store.accept(Job(id=2, endpoint="community", files=output_names(1)), most=9)
    kept.store.claim("here")
    kept.pass_time(YEAR)
    assert kept.store.counts() == {"queued": 1, "running": 1}
    assert not kept.store.get(1).expired


def test_rows_are_forgotten_a_month_after_their_images(kept):
    kept.done(1)
    kept.pass_time(8 * DAY)
    assert kept.store.get(1).expired
    kept.pass_time(28 * DAY)
    assert kept.store.get(1) is not None
    kept.pass_time(2 * DAY)
    assert kept.store.get(1) is None


def test_more_images_than_the_disk_may_hold_go_from_the_oldest(tmp_path):
    kept = Kept(tmp_path, disk_limit=1000)
    jobs = []
    for number in range(1, 6):
        jobs.append(kept.done(number, 300))
        kept.now += 1
    assert kept.retention.sweep() == 2
    assert [kept.has(job) for job in jobs] == [False, False, True, True, True]
    assert kept.retention.sweep() == 0
    kept.store.close()


def test_inputs_go_once_no_unfinished_job_has_them(kept):
    used, unused = (kept.files.put_input(data) for data in (b"used", b"unused"))
    for name in (used, unused):
        os.utime(kept.root / "inputs" / name, (kept.now, kept.now))
    kept.store.accept(Job(id=1, endpoint="community", request={"init_image": {"sha256": used}}), most=9)

    kept.pass_time(2 * HOUR - MINUTE)
    assert kept.files.input(unused)
    kept.pass_time(2 * MINUTE)
    with pytest.raises(OutputError):
        kept.files.input(unused)
    assert kept.files.input(used)

    (claimed,) = kept.store.claim("here")
    kept.store.finish(claimed, Failed("no"))
    kept.retention.sweep()
    with pytest.raises(OutputError):
        kept.files.input(used)


class Stuck(LocalFiles):
    """Cannot remove the images of one job."""

    name = ""

    def remove_outputs(self, names: Sequence[str]) -> None:
        if self.name in names:
            raise OutputError("the output cannot be removed: Operation not permitted")
        super().remove_outputs(names)


@pytest.mark.parametrize("disk_limit", [None, 0])
def test_a_file_that_cannot_be_removed_does_not_stop_the_others(tmp_path, caplog, disk_limit):
    kept = Kept(tmp_path, disk_limit=disk_limit, keep=7 * DAY if disk_limit is None else YEAR)
    kept.files = Stuck(tmp_path)
    kept.restart()
    jobs = [kept.done(number) for number in range(1, 4)]
    kept.files.name = jobs[0].files[0]
    with caplog.at_level(logging.ERROR, "intarsia"):
        kept.pass_time(8 * DAY)
    assert [kept.has(job) for job in jobs] == [True, False, False]
    assert "the images of job 1 stay" in caplog.text

    kept.files.name = ""
    kept.retention.sweep()
    assert not kept.has(jobs[0])
    kept.store.close()


@pytest.mark.parametrize("error", [OutputError("full"), OSError("gone"), TypeError("a fault of ours")])
def test_whatever_a_sweep_raises_is_logged_and_the_next_one_comes(kept, monkeypatch, caplog, error):
    closed, sweeps = threading.Event(), []

    def sweep() -> int:
        sweeps.append(1)
        if len(sweeps) == 2:
            closed.set()
        raise error

    monkeypatch.setattr(retention, "_EVERY", 0.001)
    monkeypatch.setattr(kept.retention, "sweep", sweep)
    kept.retention.run(closed)
    assert len(sweeps) == caplog.text.count("old images cannot be removed") == 2


class Pages(KeptJobs):
    """Gives two jobs at a time."""

    def over(self, *args: Any, **options: Any) -> Any:
        return super().over(*args, **options, most=2)

    def oldest(self, **options: Any) -> Any:
        return super().oldest(**options, most=2)


@pytest.mark.parametrize("disk_limit", [None, 0])
def test_more_ended_jobs_than_one_page_all_go(kept, disk_limit):
    jobs = [kept.done(number, 1) for number in range(1, 8)]
    keep = MINUTE if disk_limit is None else YEAR
    pages = Pages(kept.store.database)
    retention = Retention(pages, kept.files, keep=keep, disk_limit=disk_limit, monotonic=lambda: kept.monotonic)
    kept.now += HOUR
    assert retention.sweep() == 7
    assert not any(map(kept.has, jobs))


def test_a_clock_that_jumps_before_the_first_sweep_takes_no_image(tmp_path):
    kept = Kept(tmp_path)
    job = kept.done(1)
    kept.now += 20 * YEAR
    kept.monotonic += MINUTE
    kept.retention.sweep()
    assert kept.has(job)
    kept.store.close()


def test_a_clock_that_was_never_set_is_no_beginning(tmp_path):
    store = Store(tmp_path / "jobs.sqlite3", clock=lambda: 60.0)
    store.close()
    store = Store(tmp_path / "jobs.sqlite3", clock=lambda: 1.7e9)
    assert KeptJobs(store.database).sweep_time(MINUTE) == 1.7e9
    store.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_jumps_years_ahead_takes_no_image_before_it_is_put_right(kept, restarted):
    job = kept.done(1)
    input_name = kept.files.put_input(b"of a job that is being accepted")
    os.utime(kept.root / "inputs" / input_name, (kept.now, kept.now))
    kept.now += 20 * YEAR
    if restarted:
        kept.restart()
    for minute in range(30):
        kept.now += MINUTE
        kept.monotonic += MINUTE
        kept.retention.sweep()
        if minute == 0:
            assert kept.files.input(input_name)
    late = kept.done(2)

    kept.now -= 20 * YEAR
    kept.retention.sweep()
    kept.pass_time(6 * DAY)
    assert (kept.has(job), kept.has(late)) == (True, True)
    kept.pass_time(DAY + HOUR)
    assert (kept.has(job), kept.has(late)) == (False, False)  # though the second ended in twenty years


def test_after_a_long_sleep_sweeps_catch_up(tmp_path):
    kept = Kept(tmp_path, keep=12 * HOUR)
    kept.retention.sweep()
    job = kept.done(1)
    kept.now += DAY  # in which the machine slept: its monotonic clock stood still
    kept.retention.sweep()
    assert kept.has(job)
    for _ in range(24):
        kept.retention.sweep()
    assert not kept.has(job)
    kept.store.close()


def test_a_clock_that_jumps_back_only_keeps_images_longer(kept):
    job = kept.done(1)
    kept.now -= 20 * YEAR
    kept.pass_time(6 * DAY)
    assert kept.has(job)
    kept.now += 20 * YEAR
    kept.pass_time(2 * DAY)
    assert kept.store.counts() == {"done": 1}
