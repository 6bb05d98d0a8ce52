"""Takes queued jobs from the store to the engine host, and their ends back to the store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from intarsia.engine.result import Progress
from intarsia.errors import IntarsiaError
from intarsia.server.engines.estimates import Throughput
from intarsia.server.engines.events import JobEvent, JobEvents
from intarsia.server.engines.host import EngineHost
from intarsia.server.engines.previews import Preview
from intarsia.server.store.jobs import Done, Ended, Failed, Job, Stopped
from intarsia.server.store.leases import HEARTBEAT
from intarsia.server.store.store import Store
from intarsia.threads import start_thread

__all__ = ["MAX_ATTEMPTS", "Dispatcher"]

log = logging.getLogger("intarsia")

MAX_ATTEMPTS = 50
"""Times that a job is begun. One that ends its engine or its server each time would otherwise be run forever."""

# Seconds between looks at the store for what other processes have queued or cancelled, and between tries of a store
# that fails.
_LOOK = 1.0


class Dispatcher:
    """One thread between the store and an engine host; a :class:`intarsia.server.engines.host.Listener`.

    Args:
        server: name of this process in the store.
        on_end: called with each job whose end has been stored.
        shared: other processes use the same store, so it is looked at without being woken.
    """

    def __init__(
        self,
        store: Store,
        events: JobEvents,
        *,
        server: str,
        on_end: Callable[[Job], None] = lambda job: None,
        shared: bool = False,
    ) -> None:
        self.throughput = Throughput()
        # Called once, with a sentence, where no engine can be opened at all.
        self.on_failure: Callable[[str], None] = lambda problem: None
        self._store, self._events, self._server = store, events, server
        self._on_end, self._shared = on_end, shared
        self._host: EngineHost | None = None
        self._changed = threading.Condition()
        self._running: dict[int, Job] = {}
        # Ends that are not stored yet: tried until the store takes them.
        self._ended: list[tuple[Job, Done | Failed]] = []
        self._stopped: list[tuple[Job, Stopped]] = []
        self._awake, self._stopping = True, False
        # Whether a look for queued jobs may find one: where no other process queues any, an empty queue stays empty.
        self._may_be_queued = True
        self._next_heartbeat = 0.0
        self._thread: threading.Thread | None = None

    def start(self, host: EngineHost) -> None:
        """Begin with whatever is queued, or was running on a server that has ended."""
        self._host = host
        self._store.requeue_lost(self._server)
        self._thread = start_thread(self._run, "intarsia-dispatcher")

    @property
    def is_running(self) -> bool:
        """Whether its thread takes jobs to the host."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Look for queued jobs now."""
        with self._changed:
            self._awake = self._may_be_queued = True
            self._changed.notify_all()

    def cancel(self, job_id: int) -> Job | None:
        """Cancel a job in the store and, where it runs here, in its host; None where there is no such job."""
        job = self._store.cancel(job_id)
        if job is not None and job.state == "running" and self._host is not None:
            self._host.cancel(job_id)
        if job is not None and job.is_ended:
            self._events.publish(JobEvent(job_id=job_id, kind="stopped"))
            self._on_end(job)
        return job

    def stop(self) -> None:
        """Stop what runs, queue it again in the store, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._host is not None:
            self._host.close()
        try:
            self._store_stops()
            self._advance(room=0)
        except IntarsiaError as exc:  # they are running in the store, and run again at the next start
            count = len(self._ended) + len(self._stopped)
            log.error("the ends of %d jobs cannot be stored, which are run again: %s", count, exc)

    def progressed(self, job_id: int, progress: Progress) -> None:
        self._events.publish(JobEvent(job_id=job_id, kind="step", progress=progress))

    def previewed(self, job_id: int, preview: Preview) -> None:
        self._events.publish(JobEvent(job_id=job_id, kind="preview", preview=preview))

    def ended(self, job_id: int, ended: Ended) -> None:
        with self._changed:
            job = self._running.pop(job_id, None)
            if job is None:
                return
            if isinstance(ended, Stopped):
                self._stopped.append((job, ended))
            else:
                self._ended.append((job, ended))
            self._changed.notify_all()

    def has_room(self) -> None:
        self.wake()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, _LOOK if self._shared else None)
                if self._stopping:
                    return
                self._awake = False
            if self._host is not None and self._host.problem:
                self.on_failure(self._host.problem)
                return
            try:
                self._store_stops()
                self._keep_lease()
                self._advance(self._room())
                self._pass_on_cancels()
            except IntarsiaError as exc:  # of the store: a full disk, a database that is away
                log.error("the job store fails, and is tried again: %s", exc)
                self._pause()
            except Exception:  # a fault of ours must not end the thread, which every job waits for
                log.exception("jobs cannot be given to the engine, which is tried again")
                self._pause()

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, _LOOK)
            self._awake = self._may_be_queued = True

    def _has_work(self) -> bool:
        return self._awake or self._stopping or bool(self._ended or self._stopped)

    def _keep_lease(self) -> None:
        """Say that this server is alive, and take over from those that are not."""
        if not self._shared or time.monotonic() < self._next_heartbeat:
            return
        self._store.heartbeat(self._server)
        self._store.requeue_lost(self._server)
        self._next_heartbeat = time.monotonic() + HEARTBEAT

    def _room(self) -> int:
        """How many jobs may be begun, if any may be queued."""
        assert self._host is not None
        with self._changed:
            room = self._host.capacity - len(self._running)
            if room <= 0 or not (self._may_be_queued or self._shared):
                return 0
            self._may_be_queued = False  # unless another comes from here on
            return room

    def _advance(self, room: int) -> None:
        """Store how jobs have ended, and start up to ``room`` others: one transaction for all of them."""
        with self._changed:
            ends = list(self._ended)
        if not ends and not room:
            return

        over, jobs = self._store.advance(self._server, ends, room)
        with self._changed:
            del self._ended[: len(ends)]
        for (job, ended), stored in zip(ends, over, strict=True):
            self._is_over(job, stored, job.lane_rows if isinstance(ended, Done) else 0)

        if room and len(jobs) == room:
            self._may_be_queued = True
        for job in jobs:
            self._start(job)

    def _start(self, job: Job) -> None:
        assert self._host is not None
        with self._changed:
            # It was taken from this server, which seemed dead, and never stopped here.
            is_running = job.id in self._running
            self._running[job.id] = job
        if is_running:
            return
        self.throughput.began(job.id)
        self._events.publish(JobEvent(job_id=job.id, kind="started"))
        if job.attempts > MAX_ATTEMPTS:
            reason = f"given up: begun {MAX_ATTEMPTS} times, and each time the engine or the server ended"
            self.ended(job.id, Failed(reason, "server"))
            return
        self._host.start(job)

    def _pass_on_cancels(self) -> None:
        """What another process has asked to be cancelled."""
        if not self._shared or self._host is None:
            return
        for job_id in self._store.cancel_asked(self._server):
            self._host.cancel(job_id)

    def _store_stops(self) -> None:
        """Store that jobs were cancelled, and queue those again that were lost."""
        while self._stopped:
            job, stopped = self._stopped[0]
            if stopped.lost:
                self._store.requeue(job)
                self._may_be_queued = True
            else:
                self._store.cancelled(job)
            self._is_over(job, self._store.get(job.id), 0)
            self._stopped.pop(0)

    def _is_over(self, job: Job, stored: Job | None, evaluated: int) -> None:
        """Say that a job runs here no longer.

        Args:
            stored: as it is in the store now; None where that was not changed.
            evaluated: network evaluations that it has had.
        """
        self.throughput.ended(job.id, evaluated)
        self._events.publish(JobEvent(job_id=job.id, kind="stopped"))
        if stored is not None and stored.is_ended:
            self._on_end(stored)
