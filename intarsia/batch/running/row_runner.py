"""Runs rows through one engine, the same under every runner: decode → lanes → encode → a record.

A row is decoded by one of a pool of threads, runs in the engine's lanes, and is encoded and written by the pool again.
How many rows may be between decoding and the lanes' end, and how many in all, is bounded, so that memory is.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from intarsia.batch.ledger.error_kinds import classify, sentence
from intarsia.batch.ledger.records import Record
from intarsia.batch.manifest.rows import sources_of
from intarsia.batch.manifest.spec_hash import Specs, contents_of, identity
from intarsia.batch.running.codec_pool import CodecPool
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.row_records import failed, record_of, skipped
from intarsia.batch.settings import Options
from intarsia.batch.sheet.row_thumbnail import make_row_thumbnail
from intarsia.engine.engine import Engine
from intarsia.engine.request import InpaintRequest
from intarsia.engine.result import Result
from intarsia.engine.ticket import Ticket
from intarsia.errors import Cancelled, OutputError
from intarsia.images.access import Access
from intarsia.images.save import write
from intarsia.images.sources import open_image

__all__ = ["RowRunner", "capacity_of"]

Deliver = Callable[[Record, BaseException | None], None]


@dataclass(eq=False)
class _Item:
    """A job on its way."""

    job: Job
    deliver: Deliver
    began: float = field(default_factory=time.perf_counter)
    identities: Mapping[str, str] = field(default_factory=dict)
    request: InpaintRequest = field(default_factory=InpaintRequest)


def capacity_of(slots: int, threads: int) -> int:
    """Rows in flight in one process: two batches ahead, and what the threads have in hand and find next."""
    return 2 * slots + 2 * threads


def _resolve(
    record: Record,
    error: BaseException | None,
    *,
    future: Future[Record],
    keep: Callable[[Record], Record],
    failed_with: Callable[[BaseException], None],
) -> None:
    """A :data:`Deliver` that ends a future with the record."""
    try:
        if error is not None:
            failed_with(error)
        future.set_result(keep(record))
    except Exception as exc:  # noqa: BLE001 - raised again where the record is waited for
        future.set_exception(exc)


class RowRunner:
    """Runs jobs through one engine. Jobs may be given from one thread; records are delivered from others.

    Args:
        out: the output folder.
        device: of this runner's engine.

    Attributes:
        capacity: rows that may be in flight.

    Raises:
        BackendError, WeightsError: the engine cannot be opened.
    """

    def __init__(self, options: Options, out: Path, device: str) -> None:
        self.engine = Engine(
            options.backend,
            device,
            options.weights,
            slots=options.slots,
            deterministic=options.deterministic,
            allow_private_urls=options.allow_private_urls,
            max_pixels=options.max_pixels,
            kernels=options.kernels,
            capture=options.capture,
            precision=options.precision,
            memory=options.memory,
        )
        self._options = options
        self._out = out
        self._root = out.resolve()
        self._access = Access(allow_private_urls=options.allow_private_urls, max_pixels=options.max_pixels)
        self._specs = Specs(self.engine.registry, options)
        self._specs_lock = threading.Lock()

        threads = options.thread_count
        slots = self.engine.counters.slots
        self.capacity = capacity_of(slots, threads)
        self._room = threading.Semaphore(self.capacity)
        self._pool = CodecPool(threads, ahead=2 * slots + threads)
        self._cancelled = False

    def submit(self, job: Job, deliver: Deliver) -> None:
        """Take a job; waits while as many as the capacity allows are in flight.

        Args:
            deliver: called once, from another thread, with the record and what ended the row if anything did.
        """
        self._room.acquire()
        self._pool.read(partial(self._begin, _Item(job, deliver)))

    def run(
        self,
        jobs: Iterable[Job],
        keep: Callable[[Record], Record] = lambda record: record,
        failed_with: Callable[[BaseException], None] = lambda error: None,
    ) -> list[Record]:
        """The records of some jobs, in their order, run together.

        Args:
            keep: called with each record as soon as it is there.
            failed_with: called, before that, with what ended a row.
        """
        futures: list[Future[Record]] = []
        for job in jobs:
            future: Future[Record] = Future()
            futures.append(future)
            self.submit(job, partial(_resolve, future=future, keep=keep, failed_with=failed_with))
        return [future.result() for future in futures]

    def close(self, cancel: bool = False) -> None:
        """Finish (or cancel) what is in flight; every job's record has been delivered when this returns."""
        if cancel:
            self._cancelled = True
            self.engine.close(cancel=True)

        for _ in range(self.capacity):  # with all of it at hand, nothing is in flight
            self._room.acquire()
        self._room.release(self.capacity)

        self.engine.close()
        self._pool.close()

    def _begin(self, item: _Item) -> None:
        """Decode, and hand over to the lanes."""
        try:
            ticket = self._start(item)
        except Exception as exc:  # noqa: BLE001 - it is the row's, and goes into its record
            self._pool.arrived()
            self._fail(item, Cancelled("the run was stopped") if self._cancelled else exc)
            return

        if ticket is None:
            self._pool.arrived()
            self._finish(item, skipped(item.job, item.identities), None)
            return
        ticket.add_done_callback(lambda _: self._arrived(item, ticket))

    def _start(self, item: _Item) -> Ticket | None:
        """The row's ticket; None where its input images turn out to be those that it was done with."""
        if self._cancelled:
            raise Cancelled("the run was stopped")

        job = item.job
        item.identities = {name: identity(source) for name, source in sources_of(job.fields).items()}
        item.request = InpaintRequest.parse(job.fields)
        if job.known and job.known == self._spec(item.request, self._look(item.request), job):
            return None
        return self.engine.submit(item.request)

    def _look(self, request: InpaintRequest) -> dict[str, str]:
        images = {"init_image": request.init_image}
        if request.mask_image is not None or "mask_image" in request.required_images:
            images["mask_image"] = request.mask_image
        if request.ip_adapter is not None:
            images["ip_adapter.image"] = request.ip_adapter.image
        return {name: open_image(name, value, self._access).sha256 for name, value in images.items()}

    def _spec(self, request: InpaintRequest, contents: Mapping[str, str], job: Job) -> str:
        with self._specs_lock:
            return self._specs.spec(request, contents, job.outputs)

    def _arrived(self, item: _Item, ticket: Ticket) -> None:
        """In the engine's thread: leave the rest to the pool, and make room."""
        self._pool.write(partial(self._end, item, ticket))
        self._pool.arrived()

    def _end(self, item: _Item, ticket: Ticket) -> None:
        """Encode and write what came out of the lanes."""
        try:
            record = self._written(item, ticket.result())
        except Exception as exc:  # noqa: BLE001 - it is the row's, and goes into its record
            self._fail(item, exc)
        else:
            self._finish(item, record, None)

    def _fail(self, item: _Item, error: Exception) -> None:
        self._finish(item, failed(item.job, classify(error), sentence(error)), error)

    def _finish(self, item: _Item, record: Record, error: BaseException | None) -> None:
        try:
            item.deliver(record, error)
        finally:
            self._room.release()

    def _written(self, item: _Item, result: Result) -> Record:
        """Save every sample; the record of a row that is done."""
        began = time.perf_counter()
        job = item.job
        files = [self._save(result, sample, name, job) for sample, name in enumerate(job.outputs)]
        timings = _timings(result, write=time.perf_counter() - began, total=time.perf_counter() - item.began)

        contents = contents_of(result.plan)
        runtime = result.runtime
        record = replace(
            record_of(job, "ok"),
            outputs=job.outputs,
            sha256=tuple(digest for digest, _ in files),
            bytes=tuple(size for _, size in files),
            seeds=tuple(result.seeds),
            model_sha256=result.plan.model.sha256,
            spec_hash=self._spec(item.request, contents, job),
            contents=contents,
            identities=dict(item.identities),
            timings=timings,
            runtime=(runtime.backend, runtime.device) if runtime else (),
            warnings=(*job.notes, *result.warnings) or None,
            nsfw=tuple(result.nsfw) if any(result.nsfw) else None,
        )
        if not self._options.thumbnails:
            return record
        problems = make_row_thumbnail(record, result.images, self._out)
        return replace(record, warnings=(*(record.warnings or ()), *problems) or None)

    def _save(self, result: Result, sample: int, name: str, job: Job) -> tuple[str, int]:
        """Write one image, whole or not at all; its sha256 and size in bytes.

        Only what is the row's own is replaced: of an earlier run, or of an attempt before this one.
        """
        path = self._out / name
        self._make_folder(path.parent, name)

        texts = result.file_texts(sample, paths=job.paths, strip=self._options.strip)
        if not self._options.metadata:
            texts |= {"metadata": None, "parameters": None}

        saving = replace(self._options.saving, overwrite=name in job.own or job.attempt > 1)
        data = write(result.images[sample], path, options=saving, **texts).data
        return hashlib.sha256(data).hexdigest(), len(data)

    def _make_folder(self, folder: Path, name: str) -> None:
        """The folder of an output; nothing is made behind a link that leads out of the output folder."""
        nearest = folder
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        self._check_inside(nearest, name)

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise OutputError(f"{folder} cannot be made: {exc.strerror or exc}") from exc

        self._check_inside(folder, name)  # again: a link may have been put there meanwhile

    def _check_inside(self, folder: Path, name: str) -> None:
        if not Path(os.path.realpath(folder)).is_relative_to(self._root):
            raise OutputError(f"{name} leaves the output folder by a link")


def _timings(result: Result, *, write: float, total: float) -> dict[str, float]:
    """Seconds by stage: the engine's, then what the file took, and the whole row."""
    stages = {name: seconds for name, seconds in result.timings.items() if name != "total"}
    stages |= {"write": write, "total": total}
    return {name: round(seconds, 6) for name, seconds in stages.items()}
