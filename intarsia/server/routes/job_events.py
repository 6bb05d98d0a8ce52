"""A job as it runs, as server-sent events (WHATWG HTML, section 9.2).

The events are ``queued``, ``step``, ``preview``, and at the end ``done``, ``failed`` or ``cancelled``. An event's id
says how far the reader is, and nothing else: so whoever comes back with ``Last-Event-ID`` gets what is new since then,
also from another process, and also where a job that was interrupted runs again from its beginning.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from intarsia.engine.result import Progress
from intarsia.server.engines.events import JobEvent, Subscription
from intarsia.server.engines.previews import Preview
from intarsia.server.http.requests import base_url, services_of
from intarsia.server.routes.job_view import evaluations_of, job_view, queue_view
from intarsia.server.services import Services
from intarsia.server.store.jobs import ENDED, Job

__all__ = ["HEARTBEAT", "Seen", "stream"]

HEARTBEAT = 15.0
"""Seconds after which a comment is sent where there was no event, so that nothing between takes the stream for dead."""

# Seconds between looks into the store, which other processes change, and at whether the server is about to end.
_LOOK = 1.0
_TICK = 0.25

# Milliseconds after which a browser connects again.
_RETRY = "retry: 2000\n\n"

_QUEUED = re.compile(r"queued-(\d{1,9})")
_RUNNING = re.compile(r"step-(\d{1,9})-(\d{1,9})")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a reader has seen of a job; an event's id is this, as text.

    Attributes:
        position: the last place in the queue; None before any.
        step: the last step; None before the job has begun.
        preview: the step of the last preview; 0 before any.
        end: the state that the job has ended in; empty before.
    """

    position: int | None = None
    step: int | None = None
    preview: int = 0
    end: str = ""

    @classmethod
    def of(cls, event_id: str) -> Seen:
        """What has been seen at the event of that id; nothing where it is no id of ours."""
        if event_id in ENDED:
            return cls(end=event_id)
        if match := _QUEUED.fullmatch(event_id):
            return cls(position=int(match[1]))
        if match := _RUNNING.fullmatch(event_id):
            return cls(step=int(match[1]), preview=int(match[2]))
        return cls()

    @property
    def event_id(self) -> str:
        """The text that :meth:`of` reads."""
        if self.end:
            return self.end
        return f"queued-{self.position}" if self.step is None else f"step-{self.step}-{self.preview}"

    def lacks_position(self, position: int) -> bool:
        """Whether a place in the queue is new: the job has not begun, and has moved up."""
        return self.step is None and (self.position is None or position < self.position)

    def lacks_step(self, step: int) -> bool:
        """Whether a step is new."""
        return self.step is None or step > self.step


def stream(request: Request, job: Job) -> Response:
    """The response that follows a job; 204, which ends a browser's attempts, where its end has been seen already."""
    seen = Seen.of(request.headers.get("Last-Event-ID", ""))
    if seen.end and job.is_ended:
        return Response(status_code=204)

    follower = _Follower(job=job, services=services_of(request), base_url=base_url(request), seen=seen)
    # `X-Accel-Buffering` asks nginx to pass events on as they come.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(follower.messages(), headers=headers, media_type="text/event-stream")


@dataclass(kw_only=True)
class _Follower:
    """One reader of one job."""

    job: Job
    services: Services
    base_url: str
    seen: Seen
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

                async for message in self._course(events):
                    yield message
                if self.services.is_closing:
                    return

    async def _state(self, job: Job) -> list[str]:
        """What a job's state says, unless the reader has it."""
        if job.is_ended:
            view = await to_thread.run_sync(job_view, job, self.services, self.base_url)
            return [self._message(job.state, view, end=job.state)]
        if job.state == "queued":
            place = await to_thread.run_sync(queue_view, job, self.services)
            return self._place(place)

        latest = self.services.events.latest(job.id) or Progress(0, evaluations_of(job))
        preview = self.services.events.latest_preview(job.id)
        return self._step(latest) + (self._preview(preview) if preview else [])

    async def _course(self, events: Subscription) -> AsyncIterator[str]:
        """Steps and previews as they come, until the job's state changes or it is time to look at it."""
        until = time.monotonic() + _LOOK
        while not self.services.is_closing and (left := until - time.monotonic()) > 0:
            event = await events.next(min(left, _TICK))
            if event is not None and event.kind in ("started", "stopped"):
                return
            for message in self._happened(event):
                yield message

    def _happened(self, event: JobEvent | None) -> list[str]:
        """A step, a preview, or nothing for a while."""
        if event is None:
            return self._heartbeat()
        if event.progress is not None:
            return self._step(event.progress)
        return self._preview(event.preview) if event.preview is not None else []

    def _place(self, place: dict[str, Any]) -> list[str]:
        position = place["position"]
        if not self.seen.lacks_position(position):
            return []
        return [self._message("queued", place, position=position)]

    def _step(self, progress: Progress) -> list[str]:
        if not self.seen.lacks_step(progress.step):
            return []
        return [self._message("step", {"step": progress.step, "steps": progress.steps}, step=progress.step)]

    def _preview(self, preview: Preview) -> list[str]:
        """It can be late: the step that it shows has been sent before it, and perhaps others have."""
        if preview.step <= self.seen.preview:
            return []
        data = {"step": preview.step, "steps": preview.steps, "images": list(preview.images)}
        step = max(preview.step, self.seen.step or 0)
        return [self._message("preview", data, step=step, preview=preview.step)]

    def _message(self, event: str, data: dict[str, Any], **seen: Any) -> str:
        """An event, which the reader has then."""
        self.seen = replace(self.seen, **seen)
        self._sent = time.monotonic()
        text = json.dumps(data, ensure_ascii=True, allow_nan=False)
        return f"event: {event}\nid: {self.seen.event_id}\ndata: {text}\n\n"

    def _heartbeat(self) -> list[str]:
        if time.monotonic() - self._sent < HEARTBEAT:
            return []
        self._sent = time.monotonic()
        return [": still there\n\n"]
