"""``run`` and ``retry``: every row of a manifest is done, or named with its reason.

The parent (:mod:`intarsia.batch.running.local`) reads the manifest, keeps the results and hands out jobs. Worker
processes (:mod:`intarsia.batch.running.worker_pool`) make the images. Rows are not divided beforehand: a worker with
capacity left gets the next job.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from intarsia.batch.ledger.lock import locked
from intarsia.batch.ledger.progress import Progress, RateMeter
from intarsia.batch.ledger.progress_file import EVERY, remove_progress, write_progress
from intarsia.batch.ledger.report import write_report
from intarsia.batch.ledger.results import result_files
from intarsia.batch.ledger.run_stats import RunStats
from intarsia.batch.running.local import run_here
from intarsia.batch.running.policy import Watch, name_the_rest
from intarsia.batch.running.task import Task, prepare
from intarsia.batch.settings import Options, Pair
from intarsia.batch.ticker import Ticker
from intarsia.errors import OutputError
from intarsia.former_name import former

__all__ = ["retry", "run"]

ABANDONED = 3600  # seconds after which no shard still writes at an image


def run(
    manifest: str | os.PathLike[str] | Pair,
    out: str | os.PathLike[str],
    options: Options | None = None,
    watch: Watch | None = None,
) -> RunStats:
    """Run what is not done yet of a manifest, and write the results beside the images.

    Args:
        manifest: a ``.jsonl``, ``.csv`` or ``.parquet`` file, or a pair of folders.
        out: the output folder; made where it is not there, and locked while the run lasts.
        watch: sees the numbers as they change.

    Returns:
        the run's numbers; rows that failed are counted there and named in ``results.jsonl``, not raised.

    Raises:
        RequestError: the manifest, the defaults or an option cannot be used at all.
        OutputError: the folder is in use, or it or the results cannot be written.
        BackendError, WeightsError: no engine can be opened.
    """
    return _run(manifest, Path(out), options or Options(), watch, None)


def retry(
    manifest: str | os.PathLike[str] | Pair,
    out: str | os.PathLike[str],
    options: Options | None = None,
    watch: Watch | None = None,
    classes: Collection[str] | None = None,
) -> RunStats:
    """Like :func:`run`, with the rows alone whose latest line is an error or cancelled.

    Args:
        classes: only errors of these classes; None takes all.

    Raises:
        OutputError: also where ``out`` holds no results.
    """
    if not result_files(Path(out)):
        raise OutputError(f"{Path(out)} holds no results of a batch run")
    failures = frozenset({""}) if classes is None else frozenset(classes)
    return _run(manifest, Path(out), options or Options(), watch, failures)


def _run(
    manifest: str | os.PathLike[str] | Pair,
    out: Path,
    options: Options,
    watch: Watch | None,
    failures: Collection[str] | None,
) -> RunStats:
    task = prepare(manifest, out, options, failures)
    stats = RunStats(rows=task.rows)
    if watch is None:
        watch = _ignore

    with locked(out, options.shard):
        try:
            _sweep(out, options.shard)
            with _progress_kept(task, stats):
                _carry_out(task, stats, watch)
        except BaseException as exc:
            # Whatever fails in the wake of an error (a disk is full) would only hide it.
            with contextlib.suppress(OSError, OutputError):
                if isinstance(exc, KeyboardInterrupt):
                    name_the_rest(task, stats, "interrupted")
                _conclude(task, stats)
            raise
        _conclude(task, stats)
    return stats


@contextlib.contextmanager
def _progress_kept(task: Task, stats: RunStats) -> Iterator[None]:
    """A file that says how far the run is, for as long as it lasts."""
    out, shard = task.out, task.options.shard
    meter = RateMeter()

    def write() -> None:
        rate = meter.add(stats.done)
        progress = Progress(rows=stats.rows, finished=stats.finished, failed=stats.failed, rate=rate)
        write_progress(out, shard, progress)

    write()
    try:
        with Ticker(write, EVERY):
            yield
    finally:
        remove_progress(out, shard)


def _ignore(stats: RunStats) -> None:
    """A :data:`Watch` that does nothing."""


def _carry_out(task: Task, stats: RunStats, watch: Watch) -> None:
    if task.options.runner == "ray":
        from intarsia.batch.running.ray_runner import run_on_ray

        run_on_ray(task, stats, watch)
    else:
        run_here(task, stats, watch)


def _conclude(task: Task, stats: RunStats) -> None:
    _sweep(task.out, task.options.shard)  # a worker that was killed in this run leaves some too
    if stats.status:  # a run that found everything done says nothing new
        write_report(task.out, task.options.shard, stats.to_dict())


def _sweep(out: Path, shard: tuple[int, int]) -> None:
    """Remove what was left unfinished by processes that were killed.

    The lock is held, so no other run is at these files, but for other shards: theirs are known by their age, which a
    clock that was set back in between makes negative.
    """
    now = time.time()
    _, parts = shard
    youngest = 0 if parts == 1 else ABANDONED

    for folder, _, files in os.walk(out):
        for name in filter(_is_unfinished, files):
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):
                if abs(now - os.stat(path).st_mtime) >= youngest:
                    os.unlink(path)


def _is_unfinished(name: str) -> bool:
    return name.startswith((".intarsia-", former(".intarsia-"))) and name.endswith(".part")
