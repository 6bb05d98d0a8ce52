"""A run on this machine: the parent's loop over what its workers and its manifest have to say."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable

from intarsia.batch.ledger.claims import Claims
from intarsia.batch.ledger.results import History, Record, Results, name_of, retirement
from intarsia.batch.ledger.run_stats import Tally
from intarsia.batch.manifest.rows import Refused, Row
from intarsia.batch.running.devices import devices
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.row_runner import failed
from intarsia.batch.running.row_supply import Buckets, Sieve, Supply
from intarsia.batch.running.task import Task, history_of
from intarsia.batch.running.worker_pool import Crew, Event, Member
from intarsia.batch.settings import read_limit
from intarsia.printable import printable

__all__ = ["ATTEMPTS", "Watch", "name_the_rest", "refused", "run_here", "skipped"]

ATTEMPTS = 3
"""How often a row is tried that runs out of memory, or whose worker process dies."""

# A batch of lines is flushed together; the rest waits for the next.
_MOST_LINES = 256

Watch = Callable[[Tally], None]
"""Called after every change, with the numbers so far."""


def run_here(task: Task, tally: Tally, watch: Watch) -> None:
    """Run a task with worker processes; ``tally`` says how it went, also where an interrupt ends it."""
    history = history_of(task.out)
    claims = Claims(task.out, history, task.options.shard)
    tally.warnings = [*history.damage.warnings, *claims.damage.warnings]
    with Results(task.out / name_of(task.options.shard), history.next_run()) as results, claims:
        local = _Local(task, history, results, claims, tally, watch)
        try:
            local.run()
        finally:
            local.close()
        results.add(map(retirement, task.ghosts(history)))


def skipped(row: Row | Refused, reason: str) -> Record:
    """The record of a row that a stopped run has not begun."""
    record = failed(Job(row.number, row.id, (), attempt=0), "cancelled", reason)
    return record | {"status": "skipped"} | _nameless(row)


def refused(row: Refused) -> Record:
    """The record of a row that cannot be run."""
    return failed(Job(row.number, row.id, ()), row.error, printable(row.text)) | _nameless(row)


def _nameless(row: Row | Refused) -> Record:
    return {"nameless": True} if isinstance(row, Refused) and row.is_nameless else {}


def name_the_rest(task: Task, tally: Tally, reason: str) -> None:
    """A line for every row of a stopped run that has none."""
    tally.stopped = reason
    history = history_of(task.out)
    rows = (row for row in task.all_rows(history) if row.id not in history.last)
    records = [skipped(row, reason) for row in rows]
    if records:
        with Results(task.out / name_of(task.options.shard), history.next_run()) as results:
            results.add(records)
    for record in records:
        tally.add(record)


class _Local:
    """One run. What happens arrives in one queue: None from the supply, an event from a worker."""

    def __init__(
        self, task: Task, history: History, results: Results, claims: Claims, tally: Tally, watch: Watch
    ) -> None:
        self._task, self._results, self._tally, self._watch = task, results, tally, watch
        self._history = history
        if task.failures is not None:
            tally.rows = sum(1 for _ in task.all_rows(self._history))
        self._limit = 0 if task.options.fail_fast else read_limit(task.options.max_errors, tally.rows)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._buckets, self._again = Buckets(), deque[Job]()
        self._named = set(self._history.last)
        self._crew: Crew | None = None
        sieve = Sieve(task, self._history, claims)
        self._supply = Supply(task.all_rows(self._history), sieve, lambda: self._events.put(None))

    def run(self) -> None:
        """Until every row has its line, or the run is stopped."""
        try:
            while not self._is_over():
                self._turn()
                if self._limit is not None and self._tally.failed > self._limit:
                    self._stop(f"{self._tally.failed} rows failed, more than {self._limit}")
                    return
            self._say_goodbye("end")
        except KeyboardInterrupt:
            self._stop("interrupted")
            raise

    def close(self) -> None:
        """Leave no thread and no process behind."""
        self._supply.stop()
        if self._crew is not None:
            self._crew.kill()

    def _is_over(self) -> bool:
        """Nothing to come, nothing waiting, nothing in flight."""
        ended = self._supply.ended  # asked first: what it found before it ended is taken in below
        self._take_in()
        busy = self._crew is not None and self._crew.busy
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
        self._tally.before = self._supply.before
        if unfit:
            self._write(unfit)

    def _hand_out(self) -> None:
        """Whoever has room gets a job: of the bucket it is at, or one that is to run alone where it has no other."""
        if self._crew is None:
            if not self._buckets.count:
                return  # where everything is done there is nobody to start
            self._crew = Crew(self._task.options, self._task.out, devices(self._task.options), self._events)
        for member in self._crew.members:
            if self._again and member.window and not member.jobs:
                self._crew.give(member, self._again.popleft())
            while member.room > 0 and not self._must_empty(member):
                found = self._buckets.take(member.bucket)
                if found is None:
                    break
                member.bucket, job = found
                self._supply.release()
                self._crew.give(member, job)

    def _must_empty(self, member: Member) -> bool:
        """Whether this worker has to run dry, for the rows that are to run alone: one at a time does."""
        if not self._again or self._crew is None:
            return False
        others = (other for other in self._crew.members if other is not member)
        return member is self._crew.members[0] and all(other.room > 0 for other in others)

    def _records(self, event: Event | None) -> list[Record]:
        """The lines that an event makes; a row that is to be tried again makes none."""
        if event is None or self._crew is None:
            return []  # the supply has something; it is taken in before the next turn
        if event.message is None:
            return self._buried(self._crew, event.member)
        message = self._crew.hear(event)
        return [] if message is None else self._judged(event.member, message["record"])

    def _judged(self, member: Member, record: Record) -> list[Record]:
        job = member.jobs.pop(record["line"])
        if record["status"] == "error" and record["error"] == "memory" and job.attempt < ATTEMPTS:
            self._again.append(job.again("run alone, after the memory had run out"))
            return []
        return [record | {"worker": member.index}]

    def _buried(self, crew: Crew, member: Member) -> list[Record]:
        """A worker died: another takes its place, and its jobs are tried again, one at a time."""
        jobs, reason = crew.replace(member)
        self._tally.restarts = crew.restarts
        self._again.extend(job.again() for job in jobs if job.attempt < ATTEMPTS)
        return [failed(job, "internal", reason) for job in jobs if job.attempt >= ATTEMPTS]

    def _write(self, records: list[Record]) -> None:
        lines = [record for record in records if not self._keeps_its_line(record)]
        if lines:
            self._results.add(lines)
        for record in records:
            self._named.add(record["id"])
            self._tally.add(record)
        if self._crew is not None:
            self._tally.states = self._crew.states()
        self._watch(self._tally)

    def _keeps_its_line(self, record: Record) -> bool:
        """Whether a retry was stopped with the row in flight: its error stays, and the next retry takes it up."""
        return self._task.failures is not None and record["status"] == "cancelled"

    def _stop(self, reason: str) -> None:
        """Cancel what is in flight; every other row that no line names gets one that says why it was not begun."""
        self._tally.stopped = reason
        self._supply.stop()
        try:
            self._say_goodbye("stop")
        finally:  # a worker may refuse to start at the same time
            rows = self._task.all_rows(self._history)
            self._write([skipped(row, reason) for row in rows if row.id not in self._named])

    def _say_goodbye(self, how: str) -> None:
        """Let the workers end, and hear their last words."""
        crew = self._crew
        if crew is None:
            return
        crew.dismiss(how)
        waiting = set(crew.members)
        while waiting:
            event = self._events.get()
            if event is None:
                continue
            if event.message is not None:
                message = crew.hear(event)
                self._write([] if message is None else self._judged(event.member, message["record"]))
                continue
            waiting.discard(event.member)
            jobs = event.member.jobs.values()
            self._write([failed(job, "cancelled", "the run was stopped") for job in jobs])
