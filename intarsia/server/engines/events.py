"""What happens to jobs, as it happens: from the threads that run them to the coroutines that wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from intarsia.engine.result import Progress
from intarsia.server.engines.previews import Preview

__all__ = ["JobEvent", "JobEvents", "Subscription"]

# Events that a reader may be behind; one that is slower misses steps, never the end.
_LONGEST = 64


Kind = Literal["started", "step", "preview", "stopped"]
"""What happens to a job. ``stopped``: it runs no longer; whether it has ended or is queued again, the store says."""

_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """Something that has happened to a job; a step comes with its progress, a preview with its images."""

    job_id: int
    kind: Kind
    progress: Progress | None = None
    preview: Preview | None = None


class Subscription:
    """The events of one job for one reader: those of some kinds."""

    def __init__(self, kinds: Collection[Kind]) -> None:
        self.kinds = frozenset(kinds)
        self._queue: asyncio.Queue[JobEvent] = asyncio.Queue(_LONGEST)

    def put(self, event: JobEvent) -> None:
        """Add an event, in place of the oldest where the reader is far behind."""
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(event)

    async def next(self, seconds: float) -> JobEvent | None:
        """The next event; None where there is none for so long."""
        try:
            return await asyncio.wait_for(self._queue.get(), seconds)
        except TimeoutError:
            return None


class JobEvents:
    """Passes events on to those that wait for a job.

    It belongs to one event loop; :meth:`publish` may be called from any thread. What it passes on is a hint: a job can
    be run by another process, so whoever waits looks into the store from time to time.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        # Tuples, which another thread may go through while they are replaced.
        self._readers: dict[int, tuple[Subscription, ...]] = {}
        # Of jobs that run; kept by whichever thread publishes.
        self._lock = threading.Lock()
        self._latest: dict[int, Progress] = {}
        self._latest_previews: dict[int, Preview] = {}

    def open(self) -> None:
        """Bind it to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def publish(self, event: JobEvent) -> None:
        """Keep what is the latest of a job, and pass the event on to its readers; to none once the loop is closed."""
        with self._lock:
            self._keep(event)
        # Most steps have no reader, and each event would wake the loop. Who begins to read now looks first.
        if any(event.kind in reader.kinds for reader in self._readers.get(event.job_id, ())):
            self._deliver_soon(event)

    def wake_readers(self) -> None:
        """Wake every reader that waits for a job, so that it looks at the job again."""
        for job_id in list(self._readers):
            self._deliver_soon(JobEvent(job_id=job_id, kind="stopped"))

    def latest(self, job_id: int) -> Progress | None:
        """The last step of a job that runs here."""
        return self._latest.get(job_id)

    def latest_preview(self, job_id: int) -> Preview | None:
        """The last preview of a job that runs here."""
        return self._latest_previews.get(job_id)

    @property
    def readers(self) -> int:
        """Subscriptions that are open."""
        return sum(map(len, self._readers.values()))

    @contextmanager
    def subscribe(self, job_id: int, kinds: Collection[Kind] = _KINDS) -> Iterator[Subscription]:
        """Events of a job from now on, of some kinds."""
        subscription = Subscription(kinds)
        self._readers[job_id] = (*self._readers.get(job_id, ()), subscription)
        try:
            yield subscription
        finally:
            readers = tuple(reader for reader in self._readers[job_id] if reader is not subscription)
            if readers:
                self._readers[job_id] = readers
            else:
                del self._readers[job_id]

    def _deliver_soon(self, event: JobEvent) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver, event)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _deliver(self, event: JobEvent) -> None:
        for subscription in self._readers.get(event.job_id, ()):
            if event.kind in subscription.kinds:
                subscription.put(event)

    def _keep(self, event: JobEvent) -> None:
        if event.progress is not None:
            self._latest[event.job_id] = event.progress
        elif event.preview is not None:
            self._keep_preview(event.job_id, event.preview)
        else:
            self._latest.pop(event.job_id, None)
            self._latest_previews.pop(event.job_id, None)

    def _keep_preview(self, job_id: int, preview: Preview) -> None:
        """Unless there is a later one; and of a job that runs, as that of one that has ended would stay for ever."""
        kept = self._latest_previews.get(job_id)
        if job_id in self._latest and (kept is None or kept.step < preview.step):
            self._latest_previews[job_id] = preview
