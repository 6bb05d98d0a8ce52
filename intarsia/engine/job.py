"""A request in flight, as the engine's thread sees it; its caller holds the ticket alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from intarsia.backends.protocol import Conditioning, Session
from intarsia.engine.color_maps import ColorMaps
from intarsia.engine.lanes import Lane
from intarsia.engine.open_models import OpenModels
from intarsia.engine.plan import ModelPlan, Plan
from intarsia.engine.preview import NOT_ASKED, StepPreviews
from intarsia.engine.preview_copies import Copies, open_copies
from intarsia.engine.resolve import Resolved
from intarsia.engine.sampling import table_of
from intarsia.engine.ticket import Ticket

__all__ = ["Job"]


@dataclass(eq=False, kw_only=True)
class Job:
    """One request's lanes, and what has come of it so far.

    Attributes:
        models: opens the request's model when its first lane is admitted.
        color_maps: gives the colors of its previews then.
        in_use: gives the models that lanes need at that moment.
        generated: decoded images by sample, uint8 ``[h, w, 3]``; not checked yet, so they never leave the job.
        timings: seconds by stage, as in :class:`intarsia.engine.result.Result`.
        previews: takes them, or says why there are none; settled when the model is opened.
        denoise_began: time of :func:`time.perf_counter` after the request was encoded.
    """

    ticket: Ticket
    models: OpenModels
    color_maps: ColorMaps
    in_use: Callable[[], Collection[ModelPlan]]
    lanes: list[Lane] = field(default_factory=list)
    generated: dict[int, np.ndarray] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    previews: Copies | StepPreviews = NOT_ASKED
    denoise_began: float = 0.0

    def __post_init__(self) -> None:
        self.timings |= self.ticket.timings
        self.warnings += self.resolved.warnings

    @property
    def resolved(self) -> Resolved:
        return self.ticket.resolved

    @property
    def plan(self) -> Plan:
        return self.ticket.resolved.plan

    @property
    def evaluations_done(self) -> int:
        """Network evaluations that every image of the request has had."""
        return min(lane.cursor for lane in self.lanes)

    @property
    def is_generated(self) -> bool:
        """Whether every image has been decoded."""
        return len(self.generated) == len(self.plan.seeds)

    @cached_property
    def session(self) -> Session:
        """The request's model, opened on first use, and whatever its previews need."""
        session = self.models.session(self.resolved, self.in_use())
        if self.ticket.preview_every is not None:
            self.previews = open_copies(self.ticket, session, self.color_maps)
        return session

    @cached_property
    def conditioning(self) -> Conditioning:
        """What all images of the request share, encoded on first use."""
        began = time.perf_counter()
        conditioning, warnings = self.session.encode(self.resolved.inputs)

        self.warnings += warnings
        if self.plan.token_merging.ratio and not self.session.runtime.token_merging:
            self.warnings.append("token merging is not available in this backend; made without it")

        self.denoise_began = time.perf_counter()
        self.timings["encode"] = self.denoise_began - began
        return conditioning

    def make_lanes(self) -> list[Lane]:
        """A lane for each image; the model is opened when the first is admitted."""
        table = table_of(self.plan, self.resolved.table)
        self.lanes = [
            Lane(
                key=self.plan.group,
                sample=sample,
                seed=seed,
                table=table,
                shape=self.plan.latent_shape,
                session=lambda: self.session,
                conditioning=lambda: self.conditioning,
                owner=self,
            )
            for sample, seed in enumerate(self.plan.seeds)
        ]
        return self.lanes

    def report(self) -> None:
        """Tell the caller of a turn, with previews where they are due; lanes that are done are not decoded yet."""
        step, previews = self.evaluations_done, self.previews
        if isinstance(previews, Copies):
            previews = previews.after(step, self.lanes)
        self.ticket.report(step, previews)

    def decode(self, lane: Lane) -> None:
        """Decode a lane that is done; its state on the device is freed."""
        began = time.perf_counter()
        self.generated[lane.sample] = self.session.decode([lane.state])[0]
        lane.state = None
        self.timings["decode"] = self.timings.get("decode", 0.0) + time.perf_counter() - began
        if self.is_generated:
            self.timings["denoise"] = began - self.denoise_began

    def leave(self) -> None:
        """Take the lanes out of the loop, which drops them at its next turn."""
        for lane in self.lanes:
            lane.cancelled = lane.cancelled or not lane.done
            lane.owner = None
        self.lanes = []  # they refer to the job: without this, only the garbage collector would free it
        self.generated.clear()  # an error's traceback may keep the job, and no unchecked image may stay in it
