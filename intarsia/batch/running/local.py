"""A run on this machine: the parent's loop over events of its workers and of its manifest."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from intarsia.batch.ledger.claims import Claims
from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.results import History, Results, name_of, retirement
from intarsia.batch.ledger.run_stats import RunStats
from intarsia.batch.manifest.rows import Refused
from intarsia.batch.running import messages
from intarsia.batch.running.devices import devices
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.policy import ATTEMPTS, Watch, error_limit, gave_up, may_retry, over_limit, run_alone
from intarsia.batch.running.row_records import failed, not_begun, refused
from intarsia.batch.running.row_supply import Buckets, DoneFilter, RowSupply
from intarsia.batch.running.task import Task, history_of
from intarsia.batch.running.worker_pool import Event, WorkerPool, WorkerProcess

__all__ = ["run_here"]

# A batch of lines is flushed together; the rest waits for the next.
_MOST_LINES = 256


def run_here(task: Task, stats: RunStats, watch: Watch) -> None:
    """Run a task with worker processes; ``stats`` says how it went, also where an interrupt ends it."""
    history = history_of(task.out)
    claims = Claims(task.out, history, task.options.shard)
    stats.warnings = [*history.damage.warnings, *claims.damage.warnings]

    with Results(task.out / name_of(task.options.shard), history.next_run()) as results, claims:
        run = _LocalRun(task=task, history=history, results=results, claims=claims, stats=stats, watch=watch)
        try:
            run.run()
        finally:
            run.close()
        results.add(map(retirement, task.stale_rows(history)))


class _LocalRun:
    """One run. All events arrive in one queue: None from the supply, an :class:`Event` from a worker."""

    def __init__(
        self, *, task: Task, history: History, results: Results, claims: Claims, stats: RunStats, watch: Watch
    ) -> None:
        self._task = task
        self._history = history
        self._results = results
        self._stats = stats
        self._watch = watch

        if task.failures is not None:
            stats.rows = sum(1 for _ in task.all_rows(history))
        self._limit = error_limit(task.options, stats.rows)

        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._buckets = Buckets()
        self._retries = deque[Job]()
        self._named = set(history.last)
        self._pool: WorkerPool | None = None

        done_filter = DoneFilter(task, history, claims)
        self._supply = RowSupply(task.all_rows(history), done_filter, lambda: self._events.put(None))

    def run(self) -> None:
        """Until every row has its line, or the run is stopped."""
        try:
            while not self._is_over():
                self._turn()
                reason = over_limit(self._stats, self._limit)
                if reason:
                    self._stop(reason)
                    return
            self._dismiss(messages.Finish())
        except KeyboardInterrupt:
            self._stop("interrupted")
            raise

    def close(self) -> None:
        """Leave no thread and no process behind."""
        self._supply.stop()
        if self._pool is not None:
            self._pool.kill()

    def _is_over(self) -> bool:
        """Nothing to come, nothing waiting, nothing in flight."""
        ended = self._supply.ended  # read first: rows that it found before it ended are taken in below
        self._take_in()

        is_busy = self._pool is not None and self._pool.busy
        is_waiting = bool(self._buckets.count or self._retries)
        return ended and not is_waiting and not is_busy

    def _turn(self) -> None:
        """Hand out jobs, wait for an event, and write down what came of it."""
        self._hand_out()

        events = [self._events.get()]
        while len(events) < _MOST_LINES and not self._events.empty():
            events.append(self._events.get())
        self._write([record for event in events for record in self._records(event)])

    def _take_in(self) -> None:
        """Sort the rows that the supply has found; those that cannot be run get their line at once."""
        unfit: list[Record] = []
        for row in self._supply.take():
            if isinstance(row, Refused):
                self._supply.release()
                unfit.append(refused(row))
            else:
                bucket, job = row
                self._buckets.add(bucket, job)

        self._stats.before = self._supply.before
        if unfit:
            self._write(unfit)

    def _hand_out(self) -> None:
        """Give jobs to every worker with room. Workers are started for the first job, so not if all rows are done."""
        if self._pool is None:
            if not self._buckets.count:
                return
            self._pool = WorkerPool(self._task.options, self._task.out, devices(self._task.options), self._events)

        for worker in self._pool.workers:
            if self._retries and worker.capacity and not worker.jobs:
                self._pool.give(worker, self._retries.popleft())
            self._fill(self._pool, worker)

    def _fill(self, pool: WorkerPool, worker: WorkerProcess) -> None:
        """Give jobs to a worker while it has room: of the bucket of its latest ones, or of the fullest."""
        while worker.room > 0 and not self._is_draining(pool, worker):
            next_job = self._buckets.take(worker.bucket)
            if next_job is None:
                return
            worker.bucket, job = next_job
            self._supply.release()
            pool.give(worker, job)

    def _is_draining(self, pool: WorkerPool, worker: WorkerProcess) -> bool:
        """True if this worker takes no new jobs, so that a retry can run in it alone; only one drains at a time."""
        if not self._retries:
            return False
        others = (other for other in pool.workers if other is not worker)
        return worker is pool.workers[0] and all(other.room > 0 for other in others)

    def _records(self, event: Event | None) -> list[Record]:
        """The lines that an event makes; a row that is to be tried again makes none."""
        if event is None or self._pool is None:
            return []  # of the supply; its rows are taken in before the next turn
        if event.message is None:
            return self._replace(self._pool, event.worker)

        record = self._pool.receive(event.worker, event.message)
        return [] if record is None else self._judge(event.worker, record)

    def _judge(self, worker: WorkerProcess, record: Record) -> list[Record]:
        """The line of a row that came back, or none where it is run again."""
        assert record.line is not None
        job = worker.jobs.pop(record.line)
        if may_retry(record):
            self._retries.append(run_alone(job))
            return []
        return [replace(record, worker=worker.index)]

    def _replace(self, pool: WorkerPool, worker: WorkerProcess) -> list[Record]:
        """A worker died: another takes its place, and its jobs are tried again, one at a time."""
        jobs, reason = pool.replace(worker)
        self._stats.restarts = pool.restarts

        self._retries.extend(job.again() for job in jobs if job.attempt < ATTEMPTS)
        return [gave_up(job, reason) for job in jobs if job.attempt >= ATTEMPTS]

    def _write(self, records: list[Record]) -> None:
        lines = [record for record in records if not self._keeps_its_line(record)]
        if lines:
            self._results.add(lines)

        for record in records:
            self._named.add(record.id)
            self._stats.add(record)
        if self._pool is not None:
            self._stats.states = self._pool.states()
        self._watch(self._stats)

    def _keeps_its_line(self, record: Record) -> bool:
        """Whether a retry was stopped with the row in flight: its error stays, and the next retry takes it up."""
        return self._task.failures is not None and record.status == "cancelled"

    def _stop(self, reason: str) -> None:
        """Cancel what is in flight; every other row that no line names gets one that says why it was not begun."""
        self._stats.stopped = reason
        self._supply.stop()
        try:
            self._dismiss(messages.Cancel())
        finally:  # a worker may refuse to start at the same time
            rows = self._task.all_rows(self._history)
            self._write([not_begun(row, reason) for row in rows if row.id not in self._named])

    def _dismiss(self, message: messages.Finish | messages.Cancel) -> None:
        """Let the workers end, and write what they still report."""
        if self._pool is None:
            return
        self._pool.dismiss(message)

        waiting = set(self._pool.workers)
        while waiting:
            event = self._events.get()
            if event is None:
                continue
            if event.message is not None:
                self._write(self._records(event))
                continue
            waiting.discard(event.worker)
            self._write(_cancelled(event.worker.jobs.values()))


def _cancelled(jobs: Iterable[Job]) -> list[Record]:
    """Records of rows that were in flight when their worker ended."""
    return [failed(job, "cancelled", "the run was stopped") for job in jobs]
