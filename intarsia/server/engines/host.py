"""The interface of an engine host, which runs jobs, and of whoever listens to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from intarsia.engine.result import Progress
from intarsia.server.engines.previews import Preview
from intarsia.server.store.jobs import Ended, Job

__all__ = ["EngineHost", "Listener"]


class Listener(Protocol):
    """Is called by a host, from any thread; it returns soon and raises nothing."""

    def progressed(self, job_id: int, progress: Progress) -> None:
        """A job has done another network evaluation."""

    def previewed(self, job_id: int, preview: Preview) -> None:
        """A job's images can be shown as they were after an evaluation, perhaps later than what came after it."""

    def ended(self, job_id: int, ended: Ended) -> None:
        """A job is over, once; what is done has its files written."""

    def has_room(self) -> None:
        """The capacity has grown: jobs may be waiting for it."""


class EngineHost(Protocol):
    """Runs jobs on one or more engines. Every method may be called from any thread and returns soon."""

    @property
    def capacity(self) -> int:
        """Jobs that it can work on or have ready: more of them need not be started yet."""

    @property
    def problem(self) -> str:
        """Why it can run nothing, and never will; empty where it can."""

    @property
    def statistics(self) -> dict[str, float]:
        """``evaluations``, ``lane_rows`` and ``lane_slots`` (rows that there was room for) since it was opened.

        Also ``peak_bytes`` of device memory, where it is known.
        """

    def open_models(self, models: Sequence[str]) -> dict[str, str]:
        """Open models before they are asked for; returns a sentence for each that cannot be."""

    def start(self, job: Job) -> None:
        """Run a job; its progress and its end are given to the listener."""

    def cancel(self, job_id: int) -> None:
        """Stop a job at its next evaluation; without effect where it has ended."""

    def close(self) -> None:
        """Stop every job, which is reported to the listener as lost, and release the devices."""
