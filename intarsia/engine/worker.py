"""What the engine's thread does: requests → lanes → turns → pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import numpy as np
from PIL import Image

from intarsia.backends.protocol import Adapts, Backend, Blends, Checker, Conditioning, Opening, Prepares, Session
from intarsia.canvas.paste import blend
from intarsia.engine.checkers import Checkers
from intarsia.engine.lanes import Lane, Lanes
from intarsia.engine.parts import opening
from intarsia.engine.plan import ModelPlan
from intarsia.engine.resolve import Resolved, table_of
from intarsia.engine.result import Counters, Result
from intarsia.engine.safety import Screened, screen
from intarsia.engine.ticket import Ticket

__all__ = ["Worker"]

T = TypeVar("T")

# Turns that a group may keep the device while requests for another model or size wait; about two
# ordinary requests, so that a rare size is not starved and weights are not switched for every picture.
PATIENCE = 50
# Models kept open, one with other parts counting as another; more are closed, the longest unused first, as
# soon as no lane needs them.
OPEN_MODELS = 2


class Worker:
    """Runs lanes on one backend. All methods but ``cancel_all`` belong to the engine's thread."""

    def __init__(self, backend: Backend, slots: int | None, kernels: str = "auto", capture: str = "auto") -> None:
        self._backend, self._kernels, self._capture = backend, kernels, capture
        self._sessions: dict[ModelPlan, Session] = {}
        self._checkers = Checkers(backend)
        self._lanes = Lanes(slots or backend.slots, PATIENCE, self._failed)
        self._tickets: dict[Ticket, list[Lane]] = {}
        self._owner: dict[Lane, Ticket] = {}
        self.cancel_all = False

    @property
    def busy(self) -> bool:
        return bool(self._tickets)

    @property
    def counters(self) -> Counters:
        return Counters(self._lanes.evaluations, self._lanes.lane_rows, self._lanes.slots)

    def prepare(self) -> None:
        """Get the backend ready to open models, where that is something by itself."""
        if isinstance(self._backend, Prepares):
            with suppress(Exception):  # opening meets the same, and reports it through the request
                self._backend.prepare()

    def add(self, ticket: Ticket) -> None:
        """Make a request's lanes; one without evaluations is finished at once."""
        if self._is_cancelled(ticket):
            ticket.drop()
            return
        plan = ticket.resolved.plan
        self._tickets[ticket] = []
        try:
            self._checker(ticket)  # one that cannot be opened is found out before anything is computed
            if plan.sampler.evaluations == 0:
                self._return_input(ticket)
                return
            lanes = self._make_lanes(ticket)
        except Exception as exc:  # noqa: BLE001 - reported through the request
            self._fail(ticket, exc)
            return
        self._tickets[ticket] = lanes
        self._owner.update(dict.fromkeys(lanes, ticket))
        self._lanes.add(lanes)

    def turn(self) -> None:
        """One evaluation of one group, and whatever follows from it."""
        self._drop_cancelled()
        moved = self._lanes.turn() if self._tickets else []
        for ticket in dict.fromkeys(self._owner[lane] for lane in moved if lane in self._owner):
            ticket.report(min(lane.cursor for lane in self._tickets[ticket]))
        for lane in moved:
            if lane.done and lane in self._owner:
                self._retire(lane)

    def fail_all(self, error: BaseException) -> None:
        """Tell every request in flight that it will not be done."""
        for ticket in list(self._tickets):
            self._fail(ticket, error)

    def close(self) -> None:
        """Close every open model."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._checkers.close()

    def _make_lanes(self, ticket: Ticket) -> list[Lane]:
        plan = ticket.resolved.plan
        table = table_of(plan)
        session = _once(lambda: self._session(ticket.resolved))
        conditioning = _once(lambda: self._encode(ticket, session()))
        return [
            Lane(plan.group, sample, seed, table, plan.latent_shape, session, conditioning)
            for sample, seed in enumerate(plan.seeds)
        ]

    def _session(self, resolved: Resolved) -> Session:
        model = resolved.plan.model
        session = self._sessions.pop(model, None)
        if session is None:
            found = opening(resolved.entry, resolved.parts, self.prepare)
            wanted = replace(found, kernels=self._kernels, capture=self._capture)
            session = self._adapted(model, wanted)
        if session is None:
            self._make_room()
            session = self._backend.open(wanted)
        self._sessions[model] = session  # last is the most recently used
        return session

    def _adapted(self, model: ModelPlan, wanted: Opening) -> Session | None:
        """An idle session of the same model with other LoRAs, changed to these; None where there is none."""
        for key in self._idle():
            session = self._sessions[key]
            same = replace(key, adapters=()) == replace(model, adapters=())
            if same and isinstance(session, Adapts) and session.adapt(wanted):
                return self._sessions.pop(key)
        return None

    def _idle(self) -> list[ModelPlan]:
        """Models that no lane needs, the longest unused first."""
        used = {ticket.resolved.plan.model for ticket, lanes in self._tickets.items() if lanes}
        return [key for key in self._sessions if key not in used]

    def _make_room(self) -> None:
        idle = self._idle()
        for key in idle[: max(0, len(self._sessions) - OPEN_MODELS + 1)]:
            self._sessions.pop(key).close()

    def _encode(self, ticket: Ticket, session: Session) -> Conditioning:
        began = time.perf_counter()
        conditioning, warnings = session.encode(ticket.resolved.inputs)
        ticket.warnings.extend(warnings)
        if ticket.resolved.plan.token_merging > 0 and not session.runtime.token_merging:
            ticket.warnings.append("token merging is not available in this backend; made without it")
        ticket.denoise_began = time.perf_counter()
        ticket.timings["encode"] = ticket.denoise_began - began
        return conditioning

    def _retire(self, lane: Lane) -> None:
        """Decode one finished picture; the request's last one completes it."""
        ticket = self._owner.pop(lane)
        if ticket.cancel_asked:
            return  # dropped, undecoded, at the next turn
        began = time.perf_counter()
        try:
            ticket.generated[lane.sample] = lane.session().decode([lane.state])[0]
            ticket.timings["decode"] = ticket.timings.get("decode", 0.0) + time.perf_counter() - began
            lane.state = None
            if len(ticket.generated) == len(ticket.resolved.plan.seeds):
                ticket.timings["denoise"] = began - ticket.denoise_began
                self._complete(ticket, lane.session())
        except Exception as exc:  # noqa: BLE001 - reported through the request
            self._fail(ticket, exc)

    def _complete(self, ticket: Ticket, session: Session) -> None:
        began = time.perf_counter()
        plan, canvas = ticket.resolved.plan, ticket.resolved.canvas
        drawn = [ticket.generated[sample] for sample in range(len(plan.seeds))]
        paste = session.blend if isinstance(session, Blends) else blend
        images = [canvas.paste(picture, paste) for picture in drawn]
        ticket.timings["paste"] = time.perf_counter() - began
        self._finish(ticket, images, drawn, session)

    def _return_input(self, ticket: Ticket) -> None:
        """Strength 0: nothing is replaced, so the picture is the input (at the size asked for)."""
        canvas = ticket.resolved.canvas
        seeds = ticket.resolved.plan.seeds
        ticket.warnings.append("strength 0: the input is returned unchanged")
        self._finish(ticket, [canvas.untouched() for _ in seeds], [canvas.image for _ in seeds], None)

    def _finish(
        self, ticket: Ticket, images: list[Image.Image], drawn: list[np.ndarray], session: Session | None
    ) -> None:
        """Check what is to be shown, and hand it over."""
        shown = self._screened(ticket, images, drawn)
        ticket.timings["total"] = time.perf_counter() - ticket.began
        runtime = session.runtime if session else None
        result = Result(
            images=shown.images,
            drawn=shown.drawn,
            seeds=ticket.resolved.plan.seeds,
            plan=ticket.resolved.plan,
            timings=ticket.timings,
            runtime=runtime,
            warnings=tuple(dict.fromkeys((*ticket.warnings, *(runtime.notes if runtime else ()), *shown.warnings))),
            nsfw=shown.nsfw,
        )
        self._forget(ticket)
        ticket.finish(result)

    def _screened(self, ticket: Ticket, images: list[Image.Image], drawn: list[np.ndarray]) -> Screened:
        checker = self._checker(ticket)
        if checker is None:
            return Screened(images, drawn, (False,) * len(images))
        began = time.perf_counter()
        screened = screen(checker.check, ticket.resolved.plan.safety_action, images, drawn)
        ticket.timings["safety"] = time.perf_counter() - began
        return screened

    def _checker(self, ticket: Ticket) -> Checker | None:
        """The request's checker, open; None only where the request wants none."""
        entry = ticket.resolved.checker
        return self._checkers.get(entry, ticket.resolved.plan.safety_sha256) if entry else None

    def _drop_cancelled(self) -> None:
        for ticket in list(self._tickets):
            if self._is_cancelled(ticket):
                self._forget(ticket)
                ticket.drop()

    def _is_cancelled(self, ticket: Ticket) -> bool:
        if self.cancel_all:
            ticket.cancel()
        return ticket.cancel_asked

    def _failed(self, lane: Lane, error: Exception) -> None:
        if lane in self._owner:
            self._fail(self._owner[lane], error)

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        self._forget(ticket)
        ticket.fail(error)

    def _forget(self, ticket: Ticket) -> None:
        for lane in self._tickets.pop(ticket, []):
            lane.cancelled = lane.cancelled or not lane.done
            self._owner.pop(lane, None)
        ticket.generated.clear()  # the caller holds the ticket; no unchecked picture stays in it


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """A value made on first use and kept."""
    kept: list[T] = []

    def get() -> T:
        if not kept:
            kept.append(make())
        return kept[0]

    return get
