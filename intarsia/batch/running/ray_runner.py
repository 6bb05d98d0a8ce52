"""A run on Ray Data: the same per-item work, in actors on as many machines as the cluster has.

Paths go through Ray's object store, never pixels; files are written inside the actors. Every row comes back as a
record, errors too, since Ray drops the whole block of a row that raises. Each actor keeps a file of results of its
own, so that neither its death nor the driver's loses a row: whoever comes next reads them. Ray's own checkpoints are
not used: they can give a row twice.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from intarsia.batch.ledger.claims import Claims
from intarsia.batch.ledger.error_kinds import is_fatal
from intarsia.batch.ledger.json_lines import read_json
from intarsia.batch.ledger.merge import fold
from intarsia.batch.ledger.records import problem_of
from intarsia.batch.ledger.results import History, Record, Results, name_of, read_history, result_files, retirement
from intarsia.batch.ledger.run_stats import RunStats
from intarsia.batch.manifest.rows import Refused
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.local import ATTEMPTS, Watch, name_the_rest, refused
from intarsia.batch.running.row_runner import RowRunner, failed
from intarsia.batch.running.row_supply import DoneFilter
from intarsia.batch.running.task import Task, history_of
from intarsia.batch.running.worker import FATAL, state_of
from intarsia.batch.settings import Options, read_limit
from intarsia.errors import BackendError

__all__ = ["Actor", "run_on_ray"]

# Rows in a batch, which is also what is done again when an actor dies (but for those that it had finished).
BATCH = 64


def run_on_ray(task: Task, stats: RunStats, watch: Watch) -> None:
    """Run a task on the Ray cluster at hand: the one that is initialised, ``$RAY_ADDRESS``, or one on this machine.

    Raises:
        BackendError: Ray is not installed, or the run failed as a whole.
    """
    _gather(task, stats)
    history = history_of(task.out)
    jobs, unfit = _sorted_jobs(task, history, stats)
    target, number = task.out / name_of(task.options.shard), history.next_run()
    with Results(target, number) as results:
        for first in range(0, len(unfit), 256):
            results.add(unfit[first : first + 256])
    for record in unfit:
        stats.add(record)
    limit = 0 if task.options.fail_fast else read_limit(task.options.max_errors, stats.rows)
    try:
        if jobs:
            _run(task, jobs, number, stats, watch, limit)
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
    target, left = task.out / name_of(task.options.shard), _actor_files(task)
    for path in task.out.glob(f"{_begun(task.options)}*"):
        path.unlink()
    if left:
        files = [*left, *([target] if target.exists() else [])]
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
    jobs: list[tuple[str, Job]] = []
    unfit: list[Record] = []
    rows = 0
    with Claims(task.out, history, task.options.shard) as claims:
        stats.warnings += [*history.damage.warnings, *claims.damage.warnings]
        done_filter = DoneFilter(task, history, claims)
        for row in task.all_rows(history):
            rows += 1
            found = done_filter.find(row)
            if isinstance(found, Refused):
                unfit.append(refused(found))
            elif found is not None:
                jobs.append((repr(found[0]), found[1]))
    stats.rows, stats.before = rows, rows - len(jobs) - len(unfit)
    return [job for _, job in sorted(jobs, key=lambda pair: (pair[0], pair[1].number))], unfit


def _run(task: Task, jobs: list[Job], number: int, stats: RunStats, watch: Watch, limit: int | None) -> None:
    """Hand the jobs of the run of that number to Ray, and count what comes back."""
    for record in _records(task, jobs, number):
        stats.add(record["record"])
        stats.states = _latest(stats.states, record["state"])
        watch(stats)
        if limit is not None and stats.failed > limit:
            stats.stopped = f"{stats.failed} rows failed, more than {limit}"
            return


def _latest(states: list[dict[str, Any]], state: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(each for each in states if each["actor"] != state["actor"]), state]


def _records(task: Task, jobs: list[Job], number: int) -> Iterator[dict[str, Any]]:
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


def _mapped(ray: Any, task: Task, jobs: list[Job], number: int) -> Iterator[dict[str, Any]]:
    options = task.options
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.print_on_execution_start = False, False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every dataset that it runs
    gpus = int(ray.cluster_resources().get("GPU", 0)) if _wants_gpu(options) else 0
    workers = options.workers or gpus or 1
    size = max(1, min(BATCH, -(-len(jobs) // workers)))
    items = [{"job": json.dumps(job.to_dict())} for job in jobs]
    # A block for each batch: what one actor's death puts back is one batch.
    rows = ray.data.from_items(items, override_num_blocks=-(-len(jobs) // size)).map_batches(
        Actor,
        fn_constructor_args=(options.for_workers(), str(task.out.absolute()), number),
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    for row in rows.iter_rows():
        yield json.loads(row["record"])


def _wants_gpu(options: Options) -> bool:
    return options.backend != "null" and options.device != "cpu"


class Actor:
    """What Ray starts on each worker, and starts again where it dies: one engine, and a file of results of its own.

    Args:
        run: the number of the run, for the lines of results.
    """

    def __init__(self, options: Mapping[str, Any], out: str, run: int | None = None) -> None:
        self._options, self._out = Options.of(dict(options)), Path(out)
        self._name = secrets.token_hex(6)
        self._runner = RowRunner(self._options, self._out, self._options.device)
        self._read: dict[Path, int] = {}
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
                self._finished[line["id"]] = line
        self._begun.update(name for name in self._news(f"{_begun(self._options)}*") if isinstance(name, str))

    def _news(self, pattern: str) -> Iterator[Any]:
        """The values of the lines that others added to their files of that name; torn lines are left out."""
        for path in self._out.glob(pattern):
            if self._name in path.name:
                continue
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = [line for line in file if line.endswith(b"\n")]
            self._read[path] = self._read.get(path, 0) + sum(map(len, lines))
            yield from (value for problem, value in map(read_json, lines) if not problem)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """A batch of jobs as JSON → their records as JSON."""
        jobs = [Job.parse(json.loads(text)) for text in batch["job"]]
        self._catch_up()
        records = self._all(jobs)
        state = {"actor": self._name, **state_of(self._runner)}
        return {"record": [json.dumps({"record": record, "state": state}) for record in records]}

    def _all(self, jobs: list[Job]) -> list[Record]:
        """What an actor before this one has finished as it is; what one died with alone; the rest together."""
        made = [self._finished[job.id] for job in jobs if job.id in self._finished]
        left = [job for job in jobs if job.id not in self._finished]
        fresh = [job for job in left if not self._begun[job.id]]
        made += self._run(fresh)
        for job in left:
            deaths = self._begun[job.id]
            if deaths >= ATTEMPTS:
                reason = f"the actor died {deaths} times while it had this row in flight"
                made.append(self._keep(failed(replace(job, attempt=deaths), "internal", reason)))
            elif deaths:
                made += self._run([replace(job, attempt=deaths + 1, alone=True)])
        return [self._once_more(record, jobs) for record in made]

    def _once_more(self, record: Record, jobs: list[Job]) -> Record:
        """Try a row alone whose batch took all of the device's memory."""
        if record["status"] != "error" or record["error"] != "memory" or record["attempts"] >= ATTEMPTS:
            return record
        job = next(job for job in jobs if job.id == record["id"])
        return self._run([job.again("run alone, after the memory had run out")])[0]

    def _run(self, jobs: list[Job]) -> list[Record]:
        with self._journal.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(job.id) + "\n" for job in jobs)
        return self._runner.run(jobs, self._keep, _die_of)

    def _keep(self, record: Record) -> Record:
        with self._lock:
            self._results.add([record])
        return record


def _die_of(error: BaseException) -> None:
    """End a process that cannot be trusted any more; Ray starts another."""
    if is_fatal(error):
        os._exit(FATAL)
