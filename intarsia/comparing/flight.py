"""Requests on their way through an engine, a bounded number at a time, taken out in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter

from intarsia.engine.engine import Engine
from intarsia.engine.request import InpaintRequest
from intarsia.engine.result import Progress
from intarsia.engine.ticket import Ticket
from intarsia.errors import IntarsiaError

__all__ = ["Flight"]

Watch = Callable[[float, int], None]


class Flight:
    """Several requests, the first of them submitted together.

    Args:
        most: requests in flight at a time; those beyond it follow, one for each that is taken out.
        watch: called with how many requests are done, in fractions, and how many there are; in the engine's thread and
            in that of the caller.
    """

    def __init__(self, engine: Engine, requests: Sequence[InpaintRequest], most: int, watch: Watch | None) -> None:
        self._engine, self._watch = engine, watch
        self._waiting = deque(requests)
        self._submitted: deque[Ticket | IntarsiaError] = deque()
        self._shares = [0.0] * len(requests)
        self._count = self._taken = 0
        self._submit(most)

    def next(self) -> Ticket | IntarsiaError:
        """The next request's ticket, which is done, or what is wrong with the request itself."""
        outcome = self._submitted[0]
        if isinstance(outcome, Ticket):
            outcome.exception()  # waits
        self._report(self._taken, 1.0)
        self._taken += 1
        self._submitted.popleft()
        self._submit(1)
        return outcome

    def cancel(self) -> None:
        """Drop what has not been taken out."""
        self._waiting.clear()
        for outcome in self._submitted:
            if isinstance(outcome, Ticket):
                outcome.cancel()

    def _submit(self, most: int) -> None:
        requests = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        # the longest first: short ones fill the slots that others leave, and none runs on alone for long
        order = sorted(range(len(requests)), key=lambda number: -_work(requests[number]))
        submitted = self._engine.submit_together([requests[number] for number in order])
        outcomes = [outcome for _, outcome in sorted(zip(order, submitted, strict=True), key=itemgetter(0))]

        for outcome in outcomes:
            if isinstance(outcome, Ticket):
                outcome.add_progress_callback(self._listener(self._count))
            self._count += 1
        self._submitted += outcomes

    def _listener(self, number: int) -> Callable[[Progress], None]:
        return lambda progress: self._report(number, progress.step / progress.steps)

    def _report(self, number: int, share: float) -> None:
        self._shares[number] = max(share, self._shares[number])
        if self._watch is not None:
            self._watch(sum(self._shares), len(self._shares))


def _work(request: InpaintRequest) -> float:
    """What a request takes, roughly: its evaluations as far as the request says."""
    return (request.steps or 0) * request.strength
