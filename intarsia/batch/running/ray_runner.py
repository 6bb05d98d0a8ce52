"""A run on Ray Data: rows go through actors on as many machines as the cluster has.

Paths go through Ray's object store, never pixels; files are written inside the actors. Every row comes back as a
record, errors too, since Ray drops the whole block of a row that raises. Each actor keeps a file of results of its
own, so that neither its death nor the driver's loses a row: the next actor or run reads them. Ray's own checkpoints are
not used: they can give a row twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from intarsia.batch.ledger.claims import Claims
from intarsia.batch.ledger.error_kinds import is_fatal
from intarsia.batch.ledger.json_lines import read_json
from intarsia.batch.ledger.merge import fold
from intarsia.batch.ledger.records import Record, problem_of
from intarsia.batch.ledger.results import History, Results, name_of, read_history, result_files, retirement
from intarsia.batch.ledger.run_stats import RunStats, WorkerState
from intarsia.batch.manifest.rows import Refused
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.policy import (
    ATTEMPTS,
    Watch,
    error_limit,
    gave_up,
    may_retry,
    name_the_rest,
    over_limit,
    run_alone,
)
from intarsia.batch.running.process import FATAL, state_of
from intarsia.batch.running.row_records import refused
from intarsia.batch.running.row_runner import RowRunner
from intarsia.batch.running.row_supply import DoneFilter
from intarsia.batch.running.task import Task, history_of
from intarsia.batch.settings import Options
from intarsia.errors import BackendError

__all__ = ["Actor", "run_on_ray"]

BATCH = 64
"""Rows in a batch, which is also what is done again when an actor dies (but for those that it had finished)."""

_MOST_LINES = 256  # that are flushed together


@dataclass(frozen=True, kw_only=True)
class _ActorRecord:
    """What an actor gives back for a row: its record, and the actor's counters."""

    actor: str
    record: Record
    state: WorkerState

    @classmethod
    def parse(cls, text: str) -> _ActorRecord:
        values = json.loads(text)
        return cls(
            actor=values["actor"],
            record=Record.from_json(values["record"]),
            state=WorkerState.from_json(values["state"]),
        )

    def dump(self) -> str:
        return json.dumps(
            {"actor": self.actor, "record": self.record.to_json(), "state": self.state.to_json()},
        )


def run_on_ray(task: Task, stats: RunStats, watch: Watch) -> None:
    """Run a task on the Ray cluster at hand: the one that is initialised, ``$RAY_ADDRESS``, or one on this machine.

    Raises:
        BackendError: Ray is not installed, or the run failed as a whole.
    """
    _gather(task, stats)
    history = history_of(task.out)
    jobs, unfit = _sorted_jobs(task, history, stats)

    target = task.out / name_of(task.options.shard)
    number = history.next_run()
    with Results(target, number) as results:
        for first in range(0, len(unfit), _MOST_LINES):
            results.add(unfit[first : first + _MOST_LINES])
    for record in unfit:
        stats.add(record)

    try:
        if jobs:
            _run(task, jobs, number, stats, watch)
    except KeyboardInterrupt:
        stats.stopped = "interrupted"
        raise
    finally:
        _gather(task, stats)
        if stats.stopped:
            name_the_rest(task, stats, stats.stopped)

    with Results(target, number) as results:
        results.add(map(retirement, task.stale_rows(history)))


def _gather(task: Task, stats: RunStats) -> None:
    """Put what actors have left, of this run or of one that was killed, into the run's own file."""
    for path in task.out.glob(f"{_begun(task.options)}*"):
        path.unlink()

    files = _actor_files(task)
    if not files:
        return
    target = task.out / name_of(task.options.shard)
    if target.exists():
        files.append(target)

    history = read_history(files)
    stats.warnings += history.damage.warnings
    fold(target, history, files)


def _actor_files(task: Task) -> list[Path]:
    mark = _mark(task.options)
    return [path for path in result_files(task.out) if path.name.startswith(f"results-ray-{mark}-")]


def _mark(options: Options) -> str:
    part, parts = options.shard
    return f"{part}of{parts}"


def _begun(options: Options) -> str:
    """Names of the files in which actors note what they have begun."""
    return f".intarsia-begun-{_mark(options)}-"


def _sorted_jobs(task: Task, history: History, stats: RunStats) -> tuple[list[Job], list[Record]]:
    """What is to be done, rows that can share an evaluation beside one another; and lines for what cannot be."""
    jobs: list[tuple[str, int, Job]] = []
    unfit: list[Record] = []
    rows = 0

    with Claims(task.out, history, task.options.shard) as claims:
        stats.warnings += [*history.damage.warnings, *claims.damage.warnings]
        done_filter = DoneFilter(task, history, claims)
        for row in task.all_rows(history):
            rows += 1
            pending = done_filter.pending(row)
            if isinstance(pending, Refused):
                unfit.append(refused(pending))
            elif pending is not None:
                bucket, job = pending
                jobs.append((repr(bucket), job.number, job))

    stats.rows = rows
    stats.before = rows - len(jobs) - len(unfit)
    jobs.sort(key=lambda entry: entry[:2])
    return [job for _, _, job in jobs], unfit


def _run(task: Task, jobs: list[Job], number: int, stats: RunStats, watch: Watch) -> None:
    """Hand the jobs of the run of that number to Ray, and count what comes back."""
    limit = error_limit(task.options, stats.rows)
    states: dict[str, WorkerState] = {}

    for row in _records(task, jobs, number):
        stats.add(row.record)
        states[row.actor] = row.state
        stats.states = list(states.values())
        watch(stats)

        stats.stopped = over_limit(stats, limit)
        if stats.stopped:
            return


def _records(task: Task, jobs: list[Job], number: int) -> Iterator[_ActorRecord]:
    """Records and states of actors, as they come. A cluster that was started here is shut down here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as exc:
        raise BackendError("--runner ray needs the package ray: pip install 'intarsia[ray]'") from exc

    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield from _mapped(ray, task, jobs, number)
    except (ray.exceptions.RayError, RuntimeError) as exc:
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[-1]
        raise BackendError(f"the run on Ray failed: {reason}") from exc
    finally:
        if ours:
            ray.shutdown()


def _mapped(ray: Any, task: Task, jobs: list[Job], number: int) -> Iterator[_ActorRecord]:
    options = task.options
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it logs every dataset that it runs

    gpus = int(ray.cluster_resources().get("GPU", 0)) if _may_use_gpu(options) else 0
    workers = options.workers or gpus or 1
    size = max(1, min(BATCH, math.ceil(len(jobs) / workers)))

    # A block for each batch: what one actor's death puts back is one batch.
    items = [{"job": json.dumps(job.to_json())} for job in jobs]
    dataset = ray.data.from_items(items, override_num_blocks=math.ceil(len(jobs) / size))
    rows = dataset.map_batches(
        Actor,
        fn_constructor_args=(options.for_workers(), str(task.out.absolute()), number),
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    for row in rows.iter_rows():
        yield _ActorRecord.parse(row["record"])


def _may_use_gpu(options: Options) -> bool:
    return options.backend != "null" and options.device != "cpu"


class Actor:
    """What Ray starts on each worker, and starts again where it dies: one engine, and a file of results of its own.

    Args:
        run: the number of the run, for the lines of results.
    """

    def __init__(self, options: Mapping[str, Any], out: str, run: int | None = None) -> None:
        self._options = Options.of(dict(options))
        self._out = Path(out)
        self._name = secrets.token_hex(6)
        self._runner = RowRunner(self._options, self._out, self._options.device)

        self._offsets: dict[Path, int] = {}
        self._finished: dict[str, Record] = {}
        self._begun: Counter[str] = Counter()

        self._results = Results(self._out / f"results-ray-{_mark(self._options)}-{self._name}.jsonl", run)
        self._journal = self._out / f"{_begun(self._options)}{self._name}"
        self._lock = threading.Lock()

    def close(self) -> None:
        """Release the engine and the file of results."""
        self._runner.close()
        self._results.close()

    def _catch_up(self) -> None:
        """Read what other actors have finished, and begun, since the last time: a batch may be one that was theirs."""
        for line in self._news(f"results-ray-{_mark(self._options)}-*.jsonl"):
            if not problem_of(line):
                self._finished[line["id"]] = Record.from_json(line)

        for identifier in self._news(f"{_begun(self._options)}*"):
            if isinstance(identifier, str):
                self._begun[identifier] += 1

    def _news(self, pattern: str) -> Iterator[Any]:
        """The values of the lines that others added to their files of that name; torn lines are left out."""
        for path in self._out.glob(pattern):
            if self._name in path.name:
                continue

            offset = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                lines = [line for line in file if line.endswith(b"\n")]
            self._offsets[path] = offset + sum(map(len, lines))

            for line in lines:
                problem, value = read_json(line)
                if not problem:
                    yield value

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """A batch of jobs as JSON → their records as JSON."""
        jobs = [Job.from_json(json.loads(text)) for text in batch["job"]]
        self._catch_up()
        records = self._run_all(jobs)

        state = state_of(self._runner.engine)
        return {"record": [_ActorRecord(actor=self._name, record=record, state=state).dump() for record in records]}

    def _run_all(self, jobs: list[Job]) -> list[Record]:
        """Records of a batch.

        What an actor before this one has finished stays as it is; rows that one died with are run alone; the rest runs
        together.
        """
        records = [self._finished[job.id] for job in jobs if job.id in self._finished]
        unfinished = [job for job in jobs if job.id not in self._finished]

        records += self._run([job for job in unfinished if not self._begun[job.id]])
        for job in unfinished:
            deaths = self._begun[job.id]
            if deaths >= ATTEMPTS:
                reason = f"the actor died {deaths} times while it had this row in flight"
                records.append(self._keep(gave_up(job, reason, attempts=deaths)))
            elif deaths:
                records += self._run([replace(job, attempt=deaths + 1, alone=True)])

        by_id = {job.id: job for job in jobs}
        return [self._once_more(record, by_id[record.id]) for record in records]

    def _once_more(self, record: Record, job: Job) -> Record:
        """Run a row alone whose batch took all of the device's memory."""
        if not may_retry(record):
            return record
        (again,) = self._run([run_alone(job)])
        return again

    def _run(self, jobs: list[Job]) -> list[Record]:
        with self._journal.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(job.id) + "\n" for job in jobs)
        return self._runner.run(jobs, self._keep, _exit_if_fatal)

    def _keep(self, record: Record) -> Record:
        with self._lock:
            self._results.add([record])
        return record


def _exit_if_fatal(error: BaseException) -> None:
    """End a process that cannot be trusted any more; Ray starts another."""
    if is_fatal(error):
        os._exit(FATAL)
