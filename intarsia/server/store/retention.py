"""Removes what is kept no longer: images after their time, or where they take too much of the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from intarsia.endpoints.temporary_files import KEPT_HOURS
from intarsia.errors import IntarsiaError, OutputError
from intarsia.server.settings import DAY
from intarsia.server.store.files import FileStore
from intarsia.server.store.jobs import Job
from intarsia.server.store.kept_jobs import KeptJobs

__all__ = ["Retention"]

log = logging.getLogger("intarsia")

_EVERY = 60.0

# How far a sweep follows a clock that has gone on by more than the time since the last one: after a night of sleep it
# takes some sweeps to catch up, and after a jump by years there are hours to put the clock right.
_AHEAD = 3600.0

# Inputs are written before their job is stored; so long, nothing takes them for unneeded. More than a sweep can be
# ahead.
_INPUT_GRACE = 2 * _AHEAD

# Rows stay this much longer than their images, so that a fetch can say that these were removed.
_ROWS_KEPT = 30 * DAY


class Retention:
    """Sweeps a server's files and rows.

    Args:
        keep: seconds for which the images of ended jobs are kept; those with ``temp`` for a day at most.
        disk_limit: bytes of images, above which the oldest are removed; None is without.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        jobs: KeptJobs,
        files: FileStore,
        *,
        keep: float,
        disk_limit: int | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs, self._files = jobs, files
        self._keep, self._disk_limit = keep, disk_limit
        self._monotonic = monotonic
        self._last_sweep = monotonic()

    def run(self, closed: threading.Event) -> None:
        """Sweep every minute until ``closed`` is set."""
        while not closed.wait(_EVERY):
            try:
                self.sweep()
            except (IntarsiaError, OSError) as exc:
                log.error("old images cannot be removed, which is tried again: %s", exc)
            except Exception:  # a fault of ours must not end the thread, or the disk fills
                log.exception("old images cannot be removed, which is tried again")

    def sweep(self) -> int:
        """Remove whatever is over; returns how many jobs lost their images. What cannot be removed is logged."""
        now = self._sweep_time()
        self._jobs.ends_not_after(_AHEAD)
        count = self._remove_over(now - self._keep, now - min(self._keep, KEPT_HOURS * 3600))
        if self._disk_limit is not None:
            count += self._shrink(self._disk_limit)

        self._files.remove_inputs(self._jobs.needed_inputs(), now - _INPUT_GRACE)
        self._jobs.forget(now - self._keep - _ROWS_KEPT)
        return count

    def _sweep_time(self) -> float:
        elapsed = self._monotonic() - self._last_sweep
        self._last_sweep += elapsed
        return self._jobs.sweep_time(elapsed + _AHEAD)

    def _remove_over(self, before: float, temp_before: float) -> int:
        count, last = 0, None
        while jobs := self._jobs.over(before, temp_before, after=last):
            count += sum(map(self._remove, jobs))
            last = jobs[-1]
        return count

    def _shrink(self, limit: int) -> int:
        """Remove the oldest jobs' images until the rest fits."""
        excess = self._files.output_bytes() - limit
        count, last = 0, None
        while excess > 0 and (jobs := self._jobs.oldest(after=last)):
            for job in jobs:
                size = self._files.output_bytes(job.files)
                if excess > 0 and self._remove(job):
                    excess -= size
                    count += 1
            last = jobs[-1]
        return count

    def _remove(self, job: Job) -> bool:
        """Remove a job's images, and note it; False, with a line in the log, where they cannot be removed."""
        try:
            self._files.remove_outputs(job.files)
        except OutputError as exc:
            log.error("the images of job %d stay, and are tried again: %s", job.id, exc)
            return False
        self._jobs.expire(job.id)
        return True
