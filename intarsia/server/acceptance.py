"""A request's JSON → a stored job: read, checked in full, its images kept, its seeds drawn."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from intarsia.endpoints.reading import ENDPOINTS, Documented, read
from intarsia.endpoints.replies import meta, next_id
from intarsia.engine.known_images import KnownImages
from intarsia.engine.plan import Plan
from intarsia.engine.request import InpaintRequest
from intarsia.engine.resolve import plan_of
from intarsia.errors import SourceUnreadable, expect
from intarsia.images.access import Access
from intarsia.images.sources import read_source
from intarsia.registry.registry import Registry
from intarsia.server.admission import RecentlyFull
from intarsia.server.idempotency import Idempotency, KeyReused
from intarsia.server.settings import DAY
from intarsia.server.store.files import FileStore, output_names
from intarsia.server.store.jobs import LIBRARY, Job, Queue, WebhookTarget
from intarsia.server.store.own_images import missing_own_image, own_image
from intarsia.server.store.store import IdInUse, Store
from intarsia.server.store.webhook_addresses import check_webhook

__all__ = ["Acceptance", "Draft"]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A request that has been read, with its images and its seed, and is not checked in full yet.

    Attributes:
        job: makes the job of the request as it is kept, and its plan.
        once: the request's idempotency key.
        webhook: what is called when the job has ended.
    """

    request: InpaintRequest
    job: Callable[[dict[str, Any], Plan], Job]
    once: Idempotency | None
    webhook: WebhookTarget | None = None


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """Takes requests in: :meth:`documented` or :meth:`library` read one, :meth:`accept` checks and stores it.

    Reading may take long, where an image is elsewhere; what follows is a few milliseconds of work, and does not return
    before the job is durable. All may be called from any thread.

    Args:
        queue: jobs that may be queued.
        share: of these, jobs of one owner.
        access: what images may make this machine read; never its files.
        keep: seconds for which images of this server are kept, for a message.
        full: queues that were full a moment ago.
        known: images that were accepted before, which are not decoded again.

    Raises:
        RequestError, WeightsError: the request cannot be carried out; nothing is stored.
        KeyReused: its idempotency key belongs to another request.
        QueueFull: as many jobs are queued as the server takes.
        OutputError, StoreError: the files or the database cannot be written; the job is not accepted.
    """

    registry: Registry
    files: FileStore
    store: Store
    queue: int
    share: int
    access: Access
    keep: float = 7 * DAY
    clock: Callable[[], float] = time.time
    full: RecentlyFull = field(default_factory=RecentlyFull)
    known: KnownImages = field(default_factory=KnownImages)

    def documented(
        self,
        payload: object,
        endpoint: str | None,
        *,
        owner: str = "",
        idempotency_key: str | None = None,
        base_url: str = "",
    ) -> Draft | Job:
        """Read a documented request; the job itself where its idempotency key has given one before.

        Args:
            endpoint: as of :func:`intarsia.endpoints.reading.read`.
            base_url: what addresses in its webhook begin with.
        """
        once = Idempotency.of(idempotency_key, endpoint, payload)
        earlier = self._earlier(owner, once, documented_api=True)
        if earlier is not None:
            return earlier
        self._check_room(owner)

        documented = read(payload, endpoint, self.registry)
        url = documented.options.webhook
        if url:
            check_webhook(url, allow_private_urls=self.access.allow_private_urls)
        request = self._with_images(documented.request)

        def job(kept: dict[str, Any], plan: Plan) -> Job:
            job_id = next_id()
            return Job(
                id=job_id,
                endpoint=documented.endpoint.name,
                owner=owner,
                request=kept,
                delivery=_delivery(documented),
                warnings=documented.warnings,
                meta=meta(replace(documented, request=request), plan, str(job_id)),
                files=output_names(request.samples),
                lane_rows=_lane_rows(plan),
                created=self.clock(),
            )

        webhook = WebhookTarget(url, base_url) if url else None
        return Draft(request=request, job=job, once=once, webhook=webhook)

    def library(
        self,
        fields: Mapping[str, Any],
        *,
        owner: str = "",
        idempotency_key: str | None = None,
        preview_every: int = 0,
    ) -> Draft | Job:
        """Read a library request, the fields of an ``InpaintRequest``; otherwise as :meth:`documented`.

        Args:
            preview_every: network evaluations from one preview to the next; 0 is without.
        """
        once = Idempotency.of(idempotency_key, LIBRARY, fields)
        earlier = self._earlier(owner, once, documented_api=False)
        if earlier is not None:
            return earlier
        self._check_room(owner)

        request = self._with_images(InpaintRequest.parse(fields))

        def job(kept: dict[str, Any], plan: Plan) -> Job:
            return Job(
                id=next_id(),
                endpoint=LIBRARY,
                owner=owner,
                request=kept,
                delivery={"preview_every": preview_every},
                meta={"plan": plan.to_dict()},
                files=output_names(request.samples),
                lane_rows=_lane_rows(plan),
                created=self.clock(),
            )

        return Draft(request=request, job=job, once=once)

    def accept(self, draft: Draft | Job) -> Job:
        """Check a request in full and store its job. A job is one that was accepted before, and stays as it is."""
        if isinstance(draft, Job):
            return draft
        plan = plan_of(draft.request, self.registry, self.access, self.known)
        job, once = draft.job(self._kept(draft.request), plan), draft.once
        if once is not None:
            job = replace(job, delivery={**job.delivery, **once.delivery})
        while True:
            try:
                with self.full.noting():
                    stored = self.store.accept(
                        job,
                        most=self.queue,
                        share=self.share,
                        idempotency_key=None if once is None else once.key,
                        webhook=draft.webhook,
                    )
                break
            except IdInUse:  # of another server on the same database, in the same microsecond
                job = replace(job, id=next_id())

        if stored.queue is not None:
            self.full.note_room(job.owner, self._places(stored.queue) - 1)
            return replace(stored.job, rows_ahead=stored.queue.lane_rows)
        return stored.job if once is None else once.check(stored.job)

    def _check_room(self, owner: str) -> None:
        """Raise QueueFull where the job could not be stored now: before a request is read and its images decoded."""
        if self.full.had_room(owner):
            return
        with self.full.noting():
            queue = self.store.check_room(self.queue, owner=owner, share=self.share)
        self.full.note_room(owner, self._places(queue))

    def _places(self, queue: Queue) -> int:
        """How many more jobs an owner may queue."""
        return min(self.queue - queue.jobs, self.share - queue.own)

    def _earlier(self, owner: str, once: Idempotency | None, *, documented_api: bool) -> Job | None:
        """The job that the same request has given before; it is not read again."""
        earlier = self.store.with_key(owner, once.key) if once is not None else None
        if once is None or earlier is None:
            return None
        if (earlier.endpoint in ENDPOINTS) != documented_api:
            message = "Idempotency-Key was used for a request to another API of this server; give each request its own"
            raise KeyReused("Idempotency-Key", message=message)
        return once.check(earlier)

    def _with_images(self, request: InpaintRequest) -> InpaintRequest:
        """The request with its images read and its seed drawn: nothing of it is elsewhere any more."""
        image = self._bytes("init_image", request.init_image)
        is_own_mask = image is not None and request.mask_image == request.init_image
        mask = image if is_own_mask else self._bytes("mask_image", request.mask_image)

        fields: dict[str, Any] = {"init_image": image, "mask_image": mask}
        if request.seed is None:
            fields["seed"] = secrets.randbits(32)
        if request.ip_adapter is not None:
            shown = self._bytes("ip_adapter.image", request.ip_adapter.image)
            fields["ip_adapter"] = request.ip_adapter.model_copy(update={"image": shown})
        return request.model_copy(update=fields)

    def _bytes(self, field: str, value: Any) -> bytes | None:
        """An image as the bytes of its file; None is refused later, in the words of the engine."""
        if value is None:
            return None
        expect(field, value, str | bytes, "a URL, data URI or base64 of an image")
        own = own_image(value, self.files)
        if own is not None:
            return own
        try:
            content = read_source(field, value, self.access).content
        except SourceUnreadable as exc:
            missing = missing_own_image(field, value, self.keep)
            if missing is None:
                raise
            raise missing from exc
        assert isinstance(content, bytes)  # which text and bytes always are
        return content

    def _kept(self, request: InpaintRequest) -> dict[str, Any]:
        """The request as JSON, once its images are in the file store."""
        # A table of the request's own settles the strength: stored, it would read as asked for.
        settled = {"strength"} if request.table is not None else set()
        values = request.model_dump(exclude={"init_image", "mask_image", "ip_adapter", *settled})
        values["init_image"] = self._put(request.init_image)
        if request.mask_image is not None:
            values["mask_image"] = self._put(request.mask_image)
        if request.ip_adapter is not None:
            image = self._put(request.ip_adapter.image)
            values["ip_adapter"] = request.ip_adapter.model_dump(exclude={"image"}) | {"image": image}
        return values

    def _put(self, data: bytes) -> dict[str, str]:
        return {"sha256": self.files.put_input(data)}


def _delivery(documented: Documented) -> dict[str, Any]:
    """How the reply is given; the webhook has a table of its own."""
    options = dataclasses.asdict(documented.options)
    del options["webhook"]
    return options


def _lane_rows(plan: Plan) -> int:
    return plan.sampler.evaluations * len(plan.seeds)
