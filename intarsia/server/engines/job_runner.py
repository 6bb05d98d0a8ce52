"""The engine host that has its engine in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from intarsia.backends.device_memory import peak_device_bytes
from intarsia.engine.engine import Engine
from intarsia.engine.request import InpaintRequest
from intarsia.engine.result import Progress, Result, shared_texts
from intarsia.engine.ticket import Ticket
from intarsia.errors import Cancelled, DeviceLost, EngineStopped, IntarsiaError, OutputError
from intarsia.images.encode import encode
from intarsia.server.engines.host import Listener
from intarsia.server.engines.previews import preview_of
from intarsia.server.settings import EngineSettings
from intarsia.server.store.files import FileStore
from intarsia.server.store.jobs import Done, Ended, Job, Stopped, failure
from intarsia.server.store.stored_request import stored_request

__all__ = ["WRITE_AGAIN", "JobRunner", "open_engine"]

log = logging.getLogger("intarsia")

# Jobs whose images are decoded or encoded at the same time.
_CODEC_THREADS = 2

WRITE_AGAIN = 2.0
"""Seconds between tries to write a job's images."""


def open_engine(settings: EngineSettings, device: str) -> Engine:
    """An engine on one of the settings' devices."""
    return Engine(
        settings.backend,
        device,
        settings.weights,
        slots=settings.slots,
        kernels=settings.kernels,
        capture=settings.capture,
        precision=settings.precision,
        memory=settings.memory,
        max_pixels=settings.max_pixels,
    )


class JobRunner:
    """A host (:mod:`intarsia.server.engines.host`) with one engine in this process.

    Args:
        files: has the inputs of jobs, and takes their outputs.
    """

    def __init__(self, engine: Engine, files: FileStore, listener: Listener) -> None:
        self._engine, self._files, self._listener = engine, files, listener
        self._codec = ThreadPoolExecutor(_CODEC_THREADS, "intarsia-codec")
        self._lock = threading.Lock()
        # Tickets of jobs under way; None while the job's images are being decoded.
        self._tickets: dict[int, Ticket | None] = {}
        self._cancelled: set[int] = set()
        self._closing = False
        self._closed = threading.Event()

    @property
    def capacity(self) -> int:
        # As many as fill the batch, and as many again that take the places of those that end.
        return 2 * self._engine.counters.slots + _CODEC_THREADS

    @property
    def statistics(self) -> dict[str, float]:
        counters = self._engine.counters
        values: dict[str, float] = {
            "evaluations": counters.evaluations,
            "lane_rows": counters.lane_rows,
            "lane_slots": counters.evaluations * counters.slots,
        }
        peak = peak_device_bytes()
        return values if peak is None else values | {"peak_bytes": peak}

    @property
    def problem(self) -> str:
        return "" if self._engine.is_open else "the engine has ended"

    def open_models(self, models: Sequence[str]) -> dict[str, str]:
        problems = {}
        for model in models:
            problem = _problem(self._engine, model)
            if problem is not None:
                problems[model] = problem
        return problems

    def start(self, job: Job) -> None:
        with self._lock:
            if self._closing:
                self._listener.ended(job.id, Stopped(lost=True))
                return
            self._tickets[job.id] = None
        self._codec.submit(self._submit, job)

    def cancel(self, job_id: int) -> None:
        with self._lock:
            if job_id not in self._tickets:
                return
            self._cancelled.add(job_id)
            ticket = self._tickets[job_id]
        if ticket is not None:
            ticket.cancel()

    def close(self) -> None:
        with self._lock:
            self._closing = True
            tickets = list(self._tickets.values())
        self._closed.set()
        for ticket in tickets:
            if ticket is not None:
                ticket.cancel()
        self._engine.close(cancel=True)
        self._codec.shutdown(wait=True, cancel_futures=True)
        for job_id in list(self._tickets):
            self._end(job_id, Stopped(lost=True))

    def _submit(self, job: Job) -> None:
        """Decode a job's images and hand it to the engine."""
        try:
            every = job.delivery.get("preview_every") or None
            ticket = self._engine.submit(stored_request(job, self._files), allow_paths=False, preview_every=every)
        except Exception as exc:  # noqa: BLE001 - stored as the job's end
            self._end(job.id, self._ended(exc))
            return

        with self._lock:
            self._tickets[job.id] = ticket
            is_cancelled = self._closing or job.id in self._cancelled
        if is_cancelled:
            ticket.cancel()
        ticket.add_progress_callback(partial(self._progressed, job))
        ticket.add_done_callback(lambda done: self._generated(job, done))

    def _progressed(self, job: Job, progress: Progress) -> None:
        """In the engine's thread, which makes no preview either."""
        self._listener.progressed(job.id, progress)
        if not progress.has_preview:
            return
        try:
            self._codec.submit(self._show, job, progress)
        except RuntimeError:  # the pool is shut down
            return

    def _show(self, job: Job, progress: Progress) -> None:
        try:
            self._listener.previewed(job.id, preview_of(progress, len(job.files)))
        except IntarsiaError as exc:
            log.warning("job %d has no preview of step %d: %s", job.id, progress.step, exc)

    def _generated(self, job: Job, done: Future[Result]) -> None:
        """In the engine's thread, which encodes nothing: that is left to the codec's threads."""
        error = done.exception()
        if error is not None:
            self._end(job.id, self._ended(error))
            return
        try:
            self._codec.submit(self._write, job, done.result())
        except RuntimeError:  # the pool is shut down
            self._end(job.id, Stopped(lost=True))

    def _write(self, job: Job, result: Result) -> None:
        try:
            warnings = list(result.warnings)
            files = []
            for sample, (name, image) in enumerate(zip(job.files, result.images, strict=True)):
                data, notes = encode(image, "PNG", **shared_texts(result, sample))
                files.append((name, data))
                warnings += notes
            self._put_outputs(job, files)
            self._end(job.id, Done(_stored_result(result, warnings)))
        except Exception as exc:  # noqa: BLE001 - stored as the job's end
            self._end(job.id, self._ended(exc))

    def _put_outputs(self, job: Job, files: list[tuple[str, bytes]]) -> None:
        """Write a job's images; where that fails, as on a full disk, until it succeeds.

        Raises:
            EngineStopped, Cancelled: the runner is closed, or the job is cancelled, before it does.
        """
        while True:
            try:
                self._files.put_outputs(files)
                return
            except OutputError as exc:
                log.error("the images of job %d cannot be written, which is tried again: %s", job.id, exc)
            if self._closed.wait(WRITE_AGAIN):
                raise EngineStopped("the engine is closed")
            if job.id in self._cancelled:
                raise Cancelled("the request was cancelled")

    def _ended(self, error: BaseException) -> Ended:
        if isinstance(error, Cancelled):
            return Stopped(lost=self._closing)
        if isinstance(error, EngineStopped | DeviceLost):
            return Stopped(lost=True)
        ended = failure(error)
        if ended.kind == "server":
            log.error("a job failed unexpectedly", exc_info=error)
        return ended

    def _end(self, job_id: int, ended: Ended) -> None:
        with self._lock:
            if job_id not in self._tickets:
                return
            del self._tickets[job_id]
            self._cancelled.discard(job_id)
        self._listener.ended(job_id, ended)


def _stored_result(result: Result, warnings: list[str]) -> dict[str, Any]:
    """What is kept of a result beside its files."""
    return {
        "seconds": round(float(result.timings["total"]), 3),
        "timings": {name: round(float(seconds), 4) for name, seconds in result.timings.items()},
        "seeds": list(result.seeds),
        "nsfw": list(result.nsfw),
        "warnings": list(dict.fromkeys(warnings)),
        "backend": result.meta["backend"],
        "device": result.meta["device"],
        "meta": result.meta,
    }


def _problem(engine: Engine, model: str) -> str | None:
    """Why a model cannot be opened; None where it can. Opening it is running one evaluation of the smallest image."""
    black = np.zeros((64, 64, 3), np.uint8)
    request = InpaintRequest(
        model=model,
        init_image=black,
        mask_image=black,
        invert_mask=True,
        width=64,
        height=64,
        steps=1,
        strength=1.0,
        seed=0,
    )
    try:
        engine.run(request)
    except IntarsiaError as exc:
        return str(exc)
    return None
