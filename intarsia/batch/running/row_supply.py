"""The rows that are still to be done: read ahead in a thread, sorted into buckets that can share an evaluation."""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

from intarsia.batch.ledger.claims import Claims
from intarsia.batch.ledger.error_kinds import classify, sentence
from intarsia.batch.ledger.results import History, Record
from intarsia.batch.manifest.rows import Refused, Row, is_path
from intarsia.batch.manifest.spec_hash import Specs, identity, sources_of
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.task import Task
from intarsia.canvas.geometry import CanvasOptions, geometry
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError
from intarsia.images.containers import size_of
from intarsia.registry.registry import Registry
from intarsia.threads import start_thread

__all__ = ["AHEAD", "Buckets", "Found", "DoneFilter", "RowSupply"]

AHEAD = 1024
"""Rows that are read ahead, to find those that belong together."""


# Bytes of a file that say how large its picture is, if they do: of a JPEG its profile and a preview come first.
_HEAD = 1 << 18

_SECONDS = 5.0  # a file system that hangs is no reason to hang with it

Found = tuple[Hashable, Job] | Refused
"""A job with its bucket, or the reason why a row makes none."""


class DoneFilter:
    """Lets through what is still to be done.

    Args:
        history: what the results say.
        claims: where the outputs of what is let through are noted.
    """

    def __init__(self, task: Task, history: History, claims: Claims) -> None:
        self._out, self._registry, self._specs = str(task.out), task.registry, Specs(task.registry, task.options)
        self._history, self._claims = history, claims

    def find(self, row: Row | Refused) -> Found | None:
        """What a row makes; None where it is done. Whatever goes wrong is this row's, and no other's."""
        if isinstance(row, Refused):
            return row
        try:
            request = InpaintRequest.parse(row.fields)
            known = self._known(row, request)
            if known is None:
                return None
            own = self._claims.claim(row.id, row.outputs)
            return _bucket(request, self._registry), Job.of(row, known, own)
        except Exception as exc:  # noqa: BLE001 - it goes into the row's record
            return Refused(row.number, row.id, classify(exc), sentence(exc))

    def _known(self, row: Row, request: InpaintRequest) -> str | None:
        """The ``known`` of the row's job; None where it is done. Raises what is wrong with its request."""
        for name in ("init_image", "mask_image"):
            if getattr(request, name) is None:
                raise RequestError(name, message=f"{name} is required")
        done = self._history.done.get(row.id)
        known = str(done.get("spec_hash", "")) if done and self._has_outputs(row, done) else ""
        if not known or done is None:
            self._specs.outline(request)  # what is wrong with the parameters is found here, not on the device
            return ""
        identities = {name: identity(source) for name, source in sources_of(row.fields).items()}
        if self._specs.spec(request, done.get("contents", {}), row.outputs) != known:
            return ""
        is_seen = identities in self._seen(row.id, done) and all(identities.values())
        # One that failed since, with other parameters, gets a line that says that it is done.
        return None if is_seen and self._history.last[row.id]["status"] in ("ok", "skipped") else known

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


def _bucket(request: InpaintRequest, registry: Registry) -> Hashable:
    """What rows that can share an evaluation have in common, as far as can be seen without decoding.

    The engine groups by what it really finds; this only decides who travels together.
    """
    entry = registry.find(request.model)
    parts = (entry.id, request.vae, request.loras, request.ip_adapter.id if request.ip_adapter else None)
    guided = request.guidance_scale > 1
    return (parts, guided, request.token_merging, _size(request, entry.size))


def _size(request: InpaintRequest, native: int) -> Hashable:
    """The generation size, where it does not depend on the mask."""
    if request.width and request.height:
        return request.width, request.height
    source = request.init_image
    if request.mask_padding is not None or not isinstance(source, str) or not is_path(source):
        return None
    try:
        found = os.stat(source)
        if not stat.S_ISREG(found.st_mode) or not found.st_size:  # to read a pipe, or /proc/kmsg, may take for ever
            return None
        with open(source, "rb") as file:
            size = size_of(file.read(_HEAD))
    except (OSError, ValueError):  # it is found out when it is decoded
        return None
    if size is None or not all(size):
        return None
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


class RowSupply:
    """Goes through the rows in a thread of its own, at most :data:`AHEAD` of them ahead of who takes them.

    Args:
        rows: those of the run, in order.
        arrived: called, in that thread, after something was found and once at the end.
    """

    def __init__(self, rows: Iterable[Row | Refused], done_filter: DoneFilter, arrived: Callable[[], None]) -> None:
        self._rows, self._done_filter, self._arrived = rows, done_filter, arrived
        self._room = threading.Semaphore(AHEAD)
        self._found: deque[Found] = deque()
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self.before = 0
        self.ended = False
        self._thread = start_thread(self._run, "intarsia-supply")

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
        self._thread.join(_SECONDS)

    def _run(self) -> None:
        try:
            for row in self._rows:
                if self._stopped.is_set():
                    break
                found = self._done_filter.find(row)
                if found is None:
                    self.before += 1
                    continue
                self._room.acquire()
                if self._stopped.is_set():
                    break
                self._found.append(found)
                self._arrived()
        except BaseException as exc:  # noqa: BLE001 - raised again by take()
            self._error = exc
        self.ended = True
        self._arrived()
