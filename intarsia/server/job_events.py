"""A job as it runs, as server-sent events (WHATWG HTML, section 9.2).

The events are ``queued``, ``step``, ``preview``, and at the end ``done``, ``failed`` or ``cancelled``. An event's id
says how far the job was, and nothing else: so whoever comes back with ``Last-Event-ID`` gets what is new since then,
also from another process, and also where a job that was interrupted runs again from its beginning.
"""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread
from fastapi import Request, Response
from PIL import Image
from starlette.responses import StreamingResponse

from intarsia.engine.result import Progress
from intarsia.server.events import Subscription
from intarsia.server.job_view import evaluations_of, job_view, queue_view
from intarsia.server.jobs import ENDED, Job
from intarsia.server.requests import base_url, services_of
from intarsia.server.services import Services

__all__ = ["HEARTBEAT", "PREVIEW_EVERY", "Rank", "rank_of", "stream"]

HEARTBEAT = 15.0
"""Seconds after which a comment is sent where there was no event, so that nothing between takes the stream for dead."""

PREVIEW_EVERY = 5
"""Steps from one preview to the next, unless the client asks for another number; 0 is without."""

Rank = tuple[int, int, int]
"""How far a job is, in the order in which its events come."""

_NOTHING: Rank = (0, 0, 0)
_END: Rank = (3, 0, 0)

# Seconds between looks into the store, which other processes change, and at whether the server is about to end.
_LOOK = 1.0
_TICK = 0.25

# Milliseconds after which a browser connects again.
_RETRY = "retry: 2000\n\n"

_ID = re.compile(r"(queued|step|preview)-(\d{1,9})")
_PREVIEW_SIDE = 384


def stream(request: Request, job: Job, preview_every: int | None) -> Response:
    """The response that follows a job; 204, which ends a browser's attempts, where its end has been seen already."""
    seen = rank_of(request.headers.get("Last-Event-ID", ""))
    if seen == _END and job.is_ended:
        return Response(status_code=204)

    follower = _Follower(
        job=job,
        services=services_of(request),
        base_url=base_url(request),
        preview_every=PREVIEW_EVERY if preview_every is None else preview_every,
        seen=seen,
    )
    # `X-Accel-Buffering` asks nginx to pass events on as they come.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(follower.messages(), headers=headers, media_type="text/event-stream")


def rank_of(event_id: str) -> Rank:
    """How far a job was at the event of that id; nothing has been seen where it is no id of ours."""
    if event_id in ENDED:
        return _END
    match = _ID.fullmatch(event_id)
    if match is None:
        return _NOTHING
    kind, number = match[1], int(match[2])
    if kind == "queued":
        return _queued(number)
    return _step(number) if kind == "step" else _preview(number)


def _queued(position: int) -> Rank:
    return (1, -position, 0)


def _step(number: int) -> Rank:
    return (2, number, 0)


def _preview(number: int) -> Rank:
    return (2, number, 1)


@dataclass(kw_only=True)
class _Follower:
    """One reader of one job.

    Attributes:
        seen: how far the job was at the last event that the reader has.
    """

    job: Job
    services: Services
    base_url: str
    preview_every: int
    seen: Rank
    _sent: float = field(default_factory=time.monotonic)

    async def messages(self) -> AsyncIterator[str]:
        """The stream, to its end: that of the job, or of the server."""
        yield _RETRY
        with self.services.events.subscribe(self.job.id) as events:
            while True:
                # Read after subscribing: what changes later comes as an event.
                job = await to_thread.run_sync(self.services.store.get, self.job.id)
                if job is None:
                    return  # kept no longer
                for message in await self._state(job):
                    yield message
                if job.is_ended:
                    return

                async for message in self._steps(events, job):
                    yield message
                if self.services.is_closing:
                    return

    async def _state(self, job: Job) -> list[str]:
        """What a job's state says, unless the reader has it."""
        if job.is_ended:
            view = await to_thread.run_sync(job_view, job, self.services, self.base_url)
            return self._new(_END, job.state, job.state, view)
        if job.state == "queued":
            place = await to_thread.run_sync(queue_view, job, self.services)
            position = place["position"]
            return self._new(_queued(position), "queued", f"queued-{position}", place)

        latest = self.services.events.latest(job.id)
        return await self._progress(latest or Progress(0, evaluations_of(job)))

    async def _steps(self, events: Subscription, job: Job) -> AsyncIterator[str]:
        """Steps as they happen, until the job's state changes or it is time to look at it."""
        until = time.monotonic() + _LOOK
        while not self.services.is_closing and (left := until - time.monotonic()) > 0:
            event = await events.next(min(left, _TICK))
            if event is not None and event.progress is None:
                return
            if event is not None and event.progress is not None:
                for message in await self._progress(event.progress):
                    yield message
            elif time.monotonic() - self._sent >= HEARTBEAT:
                self._sent = time.monotonic()
                yield ": still there\n\n"

    async def _progress(self, progress: Progress) -> list[str]:
        """A step, with a preview where one is due."""
        number, steps = progress.step, progress.steps
        messages = self._new(_step(number), "step", f"step-{number}", {"step": number, "steps": steps})

        is_due = self.preview_every and 0 < number < steps and number % self.preview_every == 0
        if is_due and self.seen < _preview(number):
            images = await to_thread.run_sync(_images, progress)
            if images:
                data = {"step": number, "steps": steps, "images": images}
                messages += self._new(_preview(number), "preview", f"preview-{number}", data)
        return messages

    def _new(self, rank: Rank, event: str, event_id: str, data: dict[str, Any]) -> list[str]:
        """The event, unless the reader has it or a later one."""
        if rank <= self.seen:
            return []
        self.seen = rank
        self._sent = time.monotonic()
        text = json.dumps(data, ensure_ascii=True, allow_nan=False)
        return [f"event: {event}\nid: {event_id}\ndata: {text}\n\n"]


def _images(progress: Progress) -> list[str]:
    """Small images of how the samples look by now, as data URIs; none from an engine that has no previews."""
    if not hasattr(progress, "preview"):
        return []
    images: list[Image.Image] = progress.preview()
    return [_data_uri(image) for image in images]


def _data_uri(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
