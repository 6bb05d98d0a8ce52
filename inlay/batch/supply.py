"""The rows that are still to be done: read ahead in a thread, sorted into buckets that can share an evaluation."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from inlay.batch.classes import classify
from inlay.batch.hashes import Specs, identity, sources_of
from inlay.batch.jobs import Job
from inlay.batch.results import History, Record
from inlay.batch.rows import Refused, Row
from inlay.engine.geometry import CanvasOptions, geometry
from inlay.engine.registry import Registry
from inlay.engine.request import InpaintRequest
from inlay.errors import InlayError, RequestError

__all__ = ["AHEAD", "Buckets", "Sieve", "Supply", "bucket"]

AHEAD = 1024
"""Rows that are read ahead, to find those that belong together."""


class Sieve:
    """Lets through what is still to be done.

    Args:
        out: where the outputs of rows that are done lie.
        history: what the results say.
    """

    def __init__(self, out: Path, history: History, specs: Specs) -> None:
        self._out, self._history, self._specs = str(out), history, specs

    def job(self, row: Row) -> Job | Refused | None:
        """The job that a row makes; None where it is done, :class:`Refused` where its request means nothing."""
        try:
            request = InpaintRequest.parse(row.fields)
            for name in ("init_image", "mask_image"):
                if getattr(request, name) is None:
                    raise RequestError(name, message=f"{name} is required")
            done = self._history.done.get(row.id)
            known = str(done.get("spec_hash", "")) if done and self._has_outputs(row, done) else ""
            if not known or done is None:
                self._specs.outline(request)  # what is wrong with the parameters is found here, not on the device
                return Job.of(row)
            identities = {name: identity(source) for name, source in sources_of(row.fields).items()}
            if self._specs.spec(request, done.get("contents", {}), row.outputs) != known:
                return Job.of(row)
            return None if identities in self._seen(row.id, done) and all(identities.values()) else Job.of(row, known)
        except InlayError as exc:
            return Refused(row.number, row.id, classify(exc), str(exc))

    def _seen(self, identifier: str, done: Record) -> list[Mapping[str, str]]:
        """The files that the content hashes of the successful line are known to belong to."""
        last = self._history.last[identifier]
        looked = last["status"] == "skipped" and last.get("spec_hash") == done["spec_hash"]
        return [done.get("identities", {}), *([last.get("identities", {})] if looked else [])]

    def _has_outputs(self, row: Row, done: Record) -> bool:
        """Whether the outputs are there, of the sizes that they were written with."""
        if list(row.outputs) != done.get("outputs"):
            return False
        try:
            sizes = [os.stat(os.path.join(self._out, name)).st_size for name in row.outputs]
        except OSError:
            return False
        return sizes == done.get("bytes")


def bucket(fields: Mapping[str, Any], registry: Registry) -> Hashable:
    """What rows that can share an evaluation have in common, as far as can be seen without decoding.

    The engine groups by what it really finds; this only decides who travels together.
    """
    request = InpaintRequest.parse(fields)
    entry = registry.find(request.model)
    parts = (entry.id, request.vae, request.loras, request.ip_adapter.id if request.ip_adapter else None)
    guided = request.guidance_scale > 1
    return (parts, guided, request.token_merging, _size(request, entry.size))


def _size(request: InpaintRequest, native: int) -> Hashable:
    """The generation size, where it does not depend on the mask."""
    if request.width and request.height:
        return request.width, request.height
    if request.mask_padding is not None or not isinstance(request.init_image, str):
        return None
    try:
        with Image.open(request.init_image) as image:  # the header alone
            size = image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None  # found out, with the reason, when it is decoded
    options = CanvasOptions(width=request.width, height=request.height, native_size=native)
    layout = geometry(size, size, (0, 0, *size), options)
    return layout.width, layout.height


class Buckets:
    """Jobs that wait, by what they have in common."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Job]] = {}
        self.count = 0

    def add(self, key: Hashable, job: Job) -> None:
        """Queue a job behind the others of its bucket."""
        self._waiting.setdefault(key, deque()).append(job)
        self.count += 1

    def take(self, key: Hashable) -> tuple[Hashable, Job] | None:
        """The next job of bucket ``key``; where that is empty, of the fullest one."""
        if key not in self._waiting:
            if not self._waiting:
                return None
            key = max(self._waiting, key=lambda each: len(self._waiting[each]))
        job = self._waiting[key].popleft()
        if not self._waiting[key]:
            del self._waiting[key]
        self.count -= 1
        return key, job


Found = tuple[Hashable, Job] | Refused


class Supply:
    """Goes through the rows in a thread of its own, at most :data:`AHEAD` of them ahead of who takes them.

    Args:
        rows: those of the run, in order.
        arrived: called, in that thread, after something was found and once at the end.
    """

    def __init__(
        self, rows: Iterable[Row | Refused], sieve: Sieve, registry: Registry, arrived: Callable[[], None]
    ) -> None:
        self._rows, self._sieve, self._registry, self._arrived = rows, sieve, registry, arrived
        self._room = threading.Semaphore(AHEAD)
        self._found: deque[Found] = deque()
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self.before = 0
        self.ended = False
        self._thread = threading.Thread(target=self._run, name="inlay-supply", daemon=True)
        self._thread.start()

    def take(self) -> Iterator[Found]:
        """What has been found since the last time; raises what reading the manifest raised."""
        if self._error is not None:
            raise self._error
        while self._found:
            yield self._found.popleft()

    def release(self) -> None:
        """One that was taken has gone its way: another may be read."""
        self._room.release()

    def stop(self) -> None:
        """Read no further."""
        self._stopped.set()
        self._room.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            for row in self._rows:
                if self._stopped.is_set():
                    break
                found = row if isinstance(row, Refused) else self._sieve.job(row)
                if found is None:
                    self.before += 1
                    continue
                self._room.acquire()
                if self._stopped.is_set():
                    break
                self._found.append(found if isinstance(found, Refused) else self._sorted(found))
                self._arrived()
        except BaseException as exc:  # noqa: BLE001 - raised again by take()
            self._error = exc
        self.ended = True
        self._arrived()

    def _sorted(self, job: Job) -> tuple[Hashable, Job]:
        return bucket(job.fields, self._registry), job
