"""Removes what is kept no longer: images after their time, or where they take too much of the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from intarsia.endpoints.temporary_files import KEPT_HOURS
from intarsia.errors import IntarsiaError
from intarsia.server.files import FileStore
from intarsia.server.jobs import Job
from intarsia.server.settings import DAY
from intarsia.server.store import Store

__all__ = ["Retention"]

log = logging.getLogger("intarsia")

_EVERY = 60.0

# Inputs are written before their job is stored; so long, nothing takes them for unneeded.
_INPUT_GRACE = 3600.0

# Rows stay this much longer than their images, so that a fetch can say that these were removed.
_ROWS_KEPT = 30 * DAY


class Retention:
    """Sweeps a server's files and rows.

    Args:
        keep: seconds for which the images of ended jobs are kept; those with ``temp`` for a day at most.
        disk_limit: bytes of images, above which the oldest are removed; None is without.
    """

    def __init__(
        self,
        store: Store,
        files: FileStore,
        *,
        keep: float,
        disk_limit: int | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._files = store, files
        self._keep, self._disk_limit = keep, disk_limit
        self._clock = clock

    def run(self, closed: threading.Event) -> None:
        """Sweep every minute until ``closed`` is set."""
        while not closed.wait(_EVERY):
            try:
                self.sweep()
            except (IntarsiaError, OSError) as exc:
                log.error("old images cannot be removed, which is tried again: %s", exc)

    def sweep(self) -> int:
        """Remove whatever is over; returns how many jobs lost their images."""
        now = self._clock()
        count = 0
        while jobs := self._store.expirable(now - self._keep, now - min(self._keep, KEPT_HOURS * 3600)):
            count += self._remove(jobs)
        if self._disk_limit is not None:
            count += self._shrink(self._disk_limit)

        self._files.remove_inputs(self._store.needed_inputs(), now - _INPUT_GRACE)
        self._store.forget(now - self._keep - _ROWS_KEPT)
        return count

    def _shrink(self, limit: int) -> int:
        """Remove the oldest jobs' images until the rest fits."""
        jobs = self._store.oldest_ended(most=1_000_000)
        sizes = [self._files.output_bytes(job.files) for job in jobs]
        excess, count = sum(sizes) - limit, 0
        for job, size in zip(jobs, sizes, strict=True):
            if excess <= 0:
                break
            count += self._remove([job])
            excess -= size
        return count

    def _remove(self, jobs: list[Job]) -> int:
        for job in jobs:
            self._files.remove_outputs(job.files)
            self._store.expire(job.id)
        return len(jobs)
