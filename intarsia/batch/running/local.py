"""A run on this machine: the parent's loop over what its workers and its manifest have to say."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable

from intarsia.batch.ledger.claims import Claims
from intarsia.batch.ledger.results import History, Record, Results, name_of, retirement
from intarsia.batch.ledger.run_stats import RunStats
from intarsia.batch.manifest.rows import Refused, Row
from intarsia.batch.running.devices import devices
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.row_runner import failed
from intarsia.batch.running.row_supply import Buckets, DoneFilter, RowSupply
from intarsia.batch.running.task import Task, history_of
from intarsia.batch.running.worker_pool import Event, WorkerPool, WorkerProcess
from intarsia.batch.settings import read_limit
from intarsia.printable import printable

__all__ = ["ATTEMPTS", "Watch", "name_the_rest", "refused", "run_here", "skipped"]

ATTEMPTS = 3
"""How often a row is tried that runs out of memory, or whose worker process dies."""

# A batch of lines is flushed together; the rest waits for the next.
_MOST_LINES = 256

Watch = Callable[[RunStats], None]
"""Called after every change, with the numbers so far."""


def run_here(task: Task, stats: RunStats, watch: Watch) -> None:
    """Run a task with worker processes; ``stats`` says how it went, also where an interrupt ends it."""
    history = history_of(task.out)
    claims = Claims(task.out, history, task.options.shard)
    stats.warnings = [*history.damage.warnings, *claims.damage.warnings]
    with Results(task.out / name_of(task.options.shard), history.next_run()) as results, claims:
        local = _Local(task, history, results, claims, stats, watch)
        try:
            local.run()
        finally:
            local.close()
        results.add(map(retirement, task.stale_rows(history)))


def skipped(row: Row | Refused, reason: str) -> Record:
    """The record of a row that a stopped run has not begun."""
    record = failed(Job(row.number, row.id, (), attempt=0), "cancelled", reason)
    return record | {"status": "skipped"} | _nameless(row)


def refused(row: Refused) -> Record:
    """The record of a row that cannot be run."""
    return failed(Job(row.number, row.id, ()), row.error, printable(row.text)) | _nameless(row)


def _nameless(row: Row | Refused) -> Record:
    return {"nameless": True} if isinstance(row, Refused) and row.is_nameless else {}


def name_the_rest(task: Task, stats: RunStats, reason: str) -> None:
    """A line for every row of a stopped run that has none."""
    stats.stopped = reason
    history = history_of(task.out)
    rows = (row for row in task.all_rows(history) if row.id not in history.last)
    records = [skipped(row, reason) for row in rows]
    if records:
        with Results(task.out / name_of(task.options.shard), history.next_run()) as results:
            results.add(records)
    for record in records:
        stats.add(record)


class _Local:
    """One run. What happens arrives in one queue: None from the supply, an event from a worker."""

    def __init__(
        self, task: Task, history: History, results: Results, claims: Claims, stats: RunStats, watch: Watch
    ) -> None:
        self._task, self._results, self._stats, self._watch = task, results, stats, watch
        self._history = history
        if task.failures is not None:
            stats.rows = sum(1 for _ in task.all_rows(self._history))
        self._limit = 0 if task.options.fail_fast else read_limit(task.options.max_errors, stats.rows)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._buckets, self._again = Buckets(), deque[Job]()
        self._named = set(self._history.last)
        self._workers: WorkerPool | None = None
        done_filter = DoneFilter(task, self._history, claims)
        self._supply = RowSupply(task.all_rows(self._history), done_filter, lambda: self._events.put(None))

    def run(self) -> None:
        """Until every row has its line, or the run is stopped."""
        try:
            while not self._is_over():
                self._turn()
                if self._limit is not None and self._stats.failed > self._limit:
                    self._stop(f"{self._stats.failed} rows failed, more than {self._limit}")
                    return
            self._say_goodbye("end")
        except KeyboardInterrupt:
            self._stop("interrupted")
            raise

    def close(self) -> None:
        """Leave no thread and no process behind."""
        self._supply.stop()
        if self._workers is not None:
            self._workers.kill()

    def _is_over(self) -> bool:
        """Nothing to come, nothing waiting, nothing in flight."""
        ended = self._supply.ended  # asked first: what it found before it ended is taken in below
        self._take_in()
        busy = self._workers is not None and self._workers.busy
        return ended and not (self._buckets.count or self._again or busy)

    def _turn(self) -> None:
        """Hand out, wait for something to happen, and write down what did."""
        self._hand_out()
        events = [self._events.get()]
        while len(events) < _MOST_LINES and not self._events.empty():
            events.append(self._events.get())
        self._write([record for event in events for record in self._records(event)])

    def _take_in(self) -> None:
        """Sort what the supply has found; rows that cannot be run get their line at once."""
        unfit: list[Record] = []
        for found in self._supply.take():
            if isinstance(found, Refused):
                self._supply.release()
                unfit.append(refused(found))
            else:
                self._buckets.add(*found)
        self._stats.before = self._supply.before
        if unfit:
            self._write(unfit)

    def _hand_out(self) -> None:
        """Whoever has room gets a job: of the bucket it is at, or one that is to run alone where it has no other."""
        if self._workers is None:
            if not self._buckets.count:
                return  # where everything is done there is nobody to start
            self._workers = WorkerPool(self._task.options, self._task.out, devices(self._task.options), self._events)
        for worker in self._workers.workers:
            if self._again and worker.capacity and not worker.jobs:
                self._workers.give(worker, self._again.popleft())
            while worker.room > 0 and not self._must_empty(worker):
                found = self._buckets.take(worker.bucket)
                if found is None:
                    break
                worker.bucket, job = found
                self._supply.release()
                self._workers.give(worker, job)

    def _must_empty(self, worker: WorkerProcess) -> bool:
        """Whether this worker has to run dry, for the rows that are to run alone: one at a time does."""
        if not self._again or self._workers is None:
            return False
        others = (other for other in self._workers.workers if other is not worker)
        return worker is self._workers.workers[0] and all(other.room > 0 for other in others)

    def _records(self, event: Event | None) -> list[Record]:
        """The lines that an event makes; a row that is to be tried again makes none."""
        if event is None or self._workers is None:
            return []  # the supply has something; it is taken in before the next turn
        if event.message is None:
            return self._buried(self._workers, event.worker)
        message = self._workers.hear(event)
        return [] if message is None else self._judged(event.worker, message["record"])

    def _judged(self, worker: WorkerProcess, record: Record) -> list[Record]:
        job = worker.jobs.pop(record["line"])
        if record["status"] == "error" and record["error"] == "memory" and job.attempt < ATTEMPTS:
            self._again.append(job.again("run alone, after the memory had run out"))
            return []
        return [record | {"worker": worker.index}]

    def _buried(self, pool: WorkerPool, worker: WorkerProcess) -> list[Record]:
        """A worker died: another takes its place, and its jobs are tried again, one at a time."""
        jobs, reason = pool.replace(worker)
        self._stats.restarts = pool.restarts
        self._again.extend(job.again() for job in jobs if job.attempt < ATTEMPTS)
        return [failed(job, "internal", reason) for job in jobs if job.attempt >= ATTEMPTS]

    def _write(self, records: list[Record]) -> None:
        lines = [record for record in records if not self._keeps_its_line(record)]
        if lines:
            self._results.add(lines)
        for record in records:
            self._named.add(record["id"])
            self._stats.add(record)
        if self._workers is not None:
            self._stats.states = self._workers.states()
        self._watch(self._stats)

    def _keeps_its_line(self, record: Record) -> bool:
        """Whether a retry was stopped with the row in flight: its error stays, and the next retry takes it up."""
        return self._task.failures is not None and record["status"] == "cancelled"

    def _stop(self, reason: str) -> None:
        """Cancel what is in flight; every other row that no line names gets one that says why it was not begun."""
        self._stats.stopped = reason
        self._supply.stop()
        try:
            self._say_goodbye("stop")
        finally:  # a worker may refuse to start at the same time
            rows = self._task.all_rows(self._history)
            self._write([skipped(row, reason) for row in rows if row.id not in self._named])

    def _say_goodbye(self, how: str) -> None:
        """Let the workers end, and hear their last words."""
        pool = self._workers
        if pool is None:
            return
        pool.dismiss(how)
        waiting = set(pool.workers)
        while waiting:
            event = self._events.get()
            if event is None:
                continue
            if event.message is not None:
                message = pool.hear(event)
                self._write([] if message is None else self._judged(event.worker, message["record"]))
                continue
            waiting.discard(event.worker)
            jobs = event.worker.jobs.values()
            self._write([failed(job, "cancelled", "the run was stopped") for job in jobs])
