"""The rows that are still to be done: read ahead in a thread, sorted into buckets that can share an evaluation."""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator

from intarsia.batch.ledger.claims import Claims
from intarsia.batch.ledger.error_kinds import classify, sentence
from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.results import History
from intarsia.batch.manifest.rows import Refused, Row, is_path, sources_of
from intarsia.batch.manifest.spec_hash import Specs, identity
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.task import Task
from intarsia.canvas.geometry import follows_mask, geometry
from intarsia.canvas.options import CanvasOptions
from intarsia.engine.prompts import read_prompts
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError
from intarsia.images.containers import size_of
from intarsia.registry.registry import Registry
from intarsia.threads import start_thread

__all__ = ["AHEAD", "Buckets", "DoneFilter", "Pending", "RowSupply"]

AHEAD = 1024
"""Rows that are read ahead, to find those that can share an evaluation."""

# Bytes of a file that say how large its image is, if they do: of a JPEG its profile and a preview come first.
_HEAD = 1 << 18

_JOIN_SECONDS = 5.0  # a file system that hangs is no reason to hang with it

Pending = tuple[Hashable, Job] | Refused
"""A row that is not done: a job with its bucket, or the reason why there is none."""


class DoneFilter:
    """Leaves out the rows that are done, and makes jobs of the others.

    Args:
        history: what the results say.
        claims: where the outputs of the jobs are noted.
    """

    def __init__(self, task: Task, history: History, claims: Claims) -> None:
        self._out = str(task.out)
        self._registry = task.registry
        self._specs = Specs(task.registry, task.options)
        self._history = history
        self._claims = claims

    def pending(self, row: Row | Refused) -> Pending | None:
        """The row's job; None where it is done. Whatever goes wrong is this row's error, and no other's."""
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
        for name in request.required_images:
            if getattr(request, name) is None:
                raise RequestError(name, message=f"{name} is required")

        done = self._history.done.get(row.id)
        if done is None or not done.spec_hash or not self._has_outputs(row, done):
            self._specs.outline(request)  # what is wrong with the parameters is found here, not on the device
            return ""

        if self._specs.spec(request, done.contents or {}, row.outputs) != done.spec_hash:
            return ""

        # A row that failed since, with other parameters, gets a line that says that it is done.
        has_failed = self._history.last[row.id].status not in ("ok", "skipped")
        return None if self._is_unchanged(row, done) and not has_failed else done.spec_hash

    def _is_unchanged(self, row: Row, done: Record) -> bool:
        """Whether the input files are those that the content hashes of the successful line belong to."""
        identities = {name: identity(source) for name, source in sources_of(row.fields).items()}
        if not all(identities.values()):
            return False
        if identities == (done.identities or {}):
            return True

        # A later line may say that files of other dates had the same content.
        last = self._history.last[row.id]
        is_same_spec = last.status == "skipped" and last.spec_hash == done.spec_hash
        return is_same_spec and identities == (last.identities or {})

    def _has_outputs(self, row: Row, done: Record) -> bool:
        """Whether the outputs are there, of the sizes that they were written with."""
        if row.outputs != done.outputs:
            return False
        try:
            sizes = tuple(os.stat(os.path.join(self._out, name)).st_size for name in row.outputs)
        except OSError:
            return False
        return sizes == done.bytes


def _bucket(request: InpaintRequest, registry: Registry) -> Hashable:
    """What rows that can share an evaluation have in common, as far as can be seen without decoding.

    The engine groups by what it really finds; this only decides which rows are sent together.
    """
    entry = registry.find(request.model)
    adapter = request.ip_adapter.id if request.ip_adapter else None
    loras = (*request.loras, *read_prompts(request, entry, registry).loras)
    parts = (entry.id, request.vae, loras, adapter)
    is_guided = request.guidance_scale > 1
    return (parts, is_guided, request.token_merging, _size(request, entry.size))


def _size(request: InpaintRequest, native: int) -> Hashable:
    """The generation size, where it does not depend on the mask."""
    if request.width and request.height:
        return request.width, request.height

    source = request.init_image
    if isinstance(request.mask_padding, int) or request.extend or not isinstance(source, str) or not is_path(source):
        return None

    size = _image_size(source)
    if size is None or not all(size):
        return None

    options = CanvasOptions(
        width=request.width,
        height=request.height,
        mask_padding="auto" if request.mask_padding == "auto" else None,
        native_size=native,
    )
    if follows_mask(size, options):
        return None
    layout = geometry(size, size, (0, 0, *size), options)
    return layout.width, layout.height


def _image_size(path: str) -> tuple[int, int] | None:
    """The size that an image file's header names; None where it cannot be told without decoding."""
    try:
        status = os.stat(path)
        # To read a pipe, or /proc/kmsg, may take for ever.
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return None
        with open(path, "rb") as file:
            return size_of(file.read(_HEAD))
    except (OSError, ValueError):  # it is found out when it is decoded
        return None


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
    """Goes through the rows in a thread of its own, at most :data:`AHEAD` ahead of those that were released.

    Args:
        rows: those of the run, in order.
        arrived: called, in that thread, after each row that is not done, and once at the end.

    Attributes:
        before: rows that were done already.
        ended: there are no more rows.

    Raises:
        BackendError: the thread cannot be started.
    """

    def __init__(self, rows: Iterable[Row | Refused], done_filter: DoneFilter, arrived: Callable[[], None]) -> None:
        self._rows = rows
        self._done_filter = done_filter
        self._arrived = arrived
        self._room = threading.Semaphore(AHEAD)
        self._pending: deque[Pending] = deque()
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self.before = 0
        self.ended = False
        self._thread = start_thread(self._run, "intarsia-supply")

    def take(self) -> Iterator[Pending]:
        """The pending rows that have come since the last time; raises what reading the manifest raised."""
        if self._error is not None:
            raise self._error
        while self._pending:
            yield self._pending.popleft()

    def release(self) -> None:
        """A row that was taken has been sent or refused: another may be read."""
        self._room.release()

    def stop(self) -> None:
        """Read no further."""
        self._stopped.set()
        self._room.release()
        self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        try:
            for row in self._rows:
                if self._stopped.is_set() or not self._add(self._done_filter.pending(row)):
                    break
        except BaseException as exc:  # noqa: BLE001 - raised again by take()
            self._error = exc
        self.ended = True
        self._arrived()

    def _add(self, row: Pending | None) -> bool:
        """Queue a row, as soon as there is room; False where the supply was stopped meanwhile."""
        if row is None:
            self.before += 1
            return True

        self._room.acquire()
        if self._stopped.is_set():
            return False
        self._pending.append(row)
        self._arrived()
        return True
