"""What the engine's thread does: requests become lanes, lanes move by turns, finished ones become results."""

from __future__ import annotations

from intarsia.backends.protocol import Backend
from intarsia.engine.color_maps import ColorMaps
from intarsia.engine.finish import finish, return_input
from intarsia.engine.job import Job
from intarsia.engine.lanes import Lane, Lanes
from intarsia.engine.open_models import OpenModels
from intarsia.engine.plan import ModelPlan
from intarsia.engine.result import Counters, Result
from intarsia.engine.ticket import Ticket

__all__ = ["Worker"]

# Turns that a group may keep the device while requests for another model or size wait; about two ordinary requests, so
# that a rare size is not starved and weights are not switched for every image.
PATIENCE = 50


class Worker:
    """Runs lanes on one backend. Everything but ``cancel_all`` belongs to the engine's thread."""

    def __init__(self, backend: Backend, slots: int | None) -> None:
        self._models = OpenModels(backend)
        self._color_maps = ColorMaps()
        self._lanes = Lanes(slots or backend.slots, PATIENCE, self._lane_failed)
        self._jobs: dict[Ticket, Job] = {}
        self.cancel_all = False

    @property
    def busy(self) -> bool:
        """Whether any request is in flight."""
        return bool(self._jobs)

    @property
    def counters(self) -> Counters:
        """What has been evaluated so far."""
        return Counters(self._lanes.evaluations, self._lanes.lane_rows, self._lanes.slots)

    def prepare(self) -> None:
        """Get the backend ready to open models, where that takes work of its own."""
        self._models.prepare()

    def add(self, ticket: Ticket) -> None:
        """Make a request's lanes; one without evaluations is finished at once."""
        if self._is_cancelled(ticket):
            ticket.drop()
            return

        job = Job(ticket=ticket, models=self._models, color_maps=self._color_maps, in_use=self._models_in_use)
        self._jobs[ticket] = job
        try:
            checker = self._models.checker(job.resolved)  # one that cannot be opened is found before any computation
            if job.plan.sampler.evaluations == 0:
                self._deliver(job, return_input(job, checker))
                return
            lanes = job.make_lanes()
        except Exception as exc:  # noqa: BLE001 - reported through the request
            self._fail(job, exc)
            return
        self._lanes.add(lanes)

    def turn(self) -> None:
        """One evaluation of one group, and whatever follows from it."""
        self._drop_cancelled()
        moved = self._lanes.turn() if self._jobs else []

        for job in dict.fromkeys(lane.owner for lane in moved):
            if isinstance(job, Job):
                job.report()
        for lane in moved:
            if lane.done and isinstance(lane.owner, Job):
                self._retire(lane, lane.owner)

    def fail_all(self, error: BaseException) -> None:
        """End every request in flight with an error."""
        for job in list(self._jobs.values()):
            self._fail(job, error)

    def close(self) -> None:
        """Close every open model."""
        self._models.close()

    def _retire(self, lane: Lane, job: Job) -> None:
        """Decode one finished image; the request's last one completes it."""
        lane.owner = None
        if job.ticket.cancel_asked:
            return  # dropped, undecoded, at the next turn
        try:
            job.decode(lane)
            if job.is_generated:
                self._deliver(job, finish(job, self._models.checker(job.resolved)))
        except Exception as exc:  # noqa: BLE001 - reported through the request
            self._fail(job, exc)

    def _models_in_use(self) -> set[ModelPlan]:
        """Models that lanes need, or will need once admitted."""
        return {job.plan.model for job in self._jobs.values() if job.lanes}

    def _drop_cancelled(self) -> None:
        for job in list(self._jobs.values()):
            if self._is_cancelled(job.ticket):
                self._forget(job)
                job.ticket.drop()

    def _is_cancelled(self, ticket: Ticket) -> bool:
        if self.cancel_all:
            ticket.cancel()
        return ticket.cancel_asked

    def _lane_failed(self, lane: Lane, error: Exception) -> None:
        if isinstance(lane.owner, Job):
            self._fail(lane.owner, error)

    def _deliver(self, job: Job, result: Result) -> None:
        self._forget(job)
        job.ticket.finish(result)

    def _fail(self, job: Job, error: BaseException) -> None:
        self._forget(job)
        job.ticket.fail(error)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.ticket, None)
        job.leave()
