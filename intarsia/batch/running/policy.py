"""What every runner does about rows that fail: attempts, runs alone, the limit of failures, rows of a stopped run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.results import Results, name_of
from intarsia.batch.ledger.run_stats import RunStats
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.row_records import failed, not_begun
from intarsia.batch.running.task import Task, history_of
from intarsia.batch.settings import Options, read_limit
from intarsia.counted import counted

__all__ = ["ATTEMPTS", "Watch", "error_limit", "gave_up", "may_retry", "name_the_rest", "over_limit", "run_alone"]

ATTEMPTS = 3
"""How often a row is tried that runs out of memory, or whose process dies."""

Watch = Callable[[RunStats], None]
"""Called after every change, with the numbers so far."""


def may_retry(record: Record) -> bool:
    """Whether a row is to be run again: memory ran out, perhaps for what was in flight beside it."""
    ran_out = record.status == "error" and record.error == "memory"
    return ran_out and (record.attempts or 0) < ATTEMPTS


def run_alone(job: Job) -> Job:
    """The next attempt at a row that ran out of memory."""
    return job.again("run alone, after the memory had run out")


def gave_up(job: Job, reason: str, attempts: int | None = None) -> Record:
    """The record of a row whose process died at every attempt; ``attempts`` replaces the job's own number."""
    last = job if attempts is None else replace(job, attempt=attempts)
    return failed(last, "internal", reason)


def error_limit(options: Options, rows: int) -> int | None:
    """How many of ``rows`` may fail before the run stops; None sets no limit."""
    return 0 if options.fail_fast else read_limit(options.max_errors, rows)


def over_limit(stats: RunStats, limit: int | None) -> str:
    """Why a run stops because of its failures; "" where it goes on."""
    if limit is None or stats.failed <= limit:
        return ""
    return f"{counted(stats.failed, 'row')} failed, more than {limit}"


def name_the_rest(task: Task, stats: RunStats, reason: str) -> None:
    """Write a line for every row of a stopped run that has none."""
    stats.stopped = reason
    history = history_of(task.out)
    rest = [not_begun(row, reason) for row in task.all_rows(history) if row.id not in history.last]

    if rest:
        with Results(task.out / name_of(task.options.shard), history.next_run()) as results:
            results.add(rest)
    for record in rest:
        stats.add(record)
