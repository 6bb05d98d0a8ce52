"""From a request that has arrived to its stored job, without holding up other requests.

Work of a few milliseconds is done by few threads in turn (:mod:`intarsia.server.admission`). Images that are elsewhere
take as long as their host likes: they are waited for in other threads, of which one owner has a part at most, so that
requests that bring their images never wait behind them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from intarsia.images.sources import is_address
from intarsia.server.acceptance import Acceptance, Draft
from intarsia.server.admission import AT_ONCE, Admission, Overloaded
from intarsia.server.store.jobs import Job

__all__ = ["Intake"]

# Requests whose images are fetched at once: of all owners, and of one.
_FETCHING = 64
_FETCHING_OF_ONE = 16

# Requests that may wait for that.
_WAITING = 256

T = TypeVar("T")


class Intake:
    """Takes requests in. It belongs to the event loop's thread.

    Args:
        acceptance: what is done with a request.

    Attributes:
        admission: decides how many are taken in at once, and when there are too many.
    """

    def __init__(self, acceptance: Acceptance) -> None:
        self._acceptance = acceptance
        self.admission = Admission()
        self._accepting = CapacityLimiter(AT_ONCE)
        self._fetching = CapacityLimiter(_FETCHING)
        # Requests of each owner whose images are fetched, or that wait for it; owners without one are not in it.
        self._waiting: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}

    def check(self, owner: str | None = None) -> None:
        """Refuse a request that could not be accepted at this moment: in microseconds, without waiting.

        Args:
            owner: None where the request's key has not been looked at yet.

        Raises:
            QueueFull, Overloaded: the queue has just been full, or too many requests wait already.
        """
        self._acceptance.full.check(owner)
        self.admission.check()

    async def accept(
        self, read: Callable[[], Draft | Job], images: Iterable[object], owner: str, finish: Callable[[Job], T]
    ) -> T:
        """Read a request, and store its job.

        Args:
            read: a method of :class:`Acceptance`, with its arguments.
            images: the request's images, as they came.
            finish: is given the job, in the thread that has stored it.

        Raises:
            Overloaded: too many requests wait already.
            IntarsiaError: as :class:`Acceptance`.
        """
        if any(is_address(image) for image in images):
            draft = await self._fetched(read, owner)
            return await self.run(lambda: finish(self._acceptance.accept(draft)))
        return await self.run(lambda: finish(self._acceptance.accept(read())))

    async def run(self, work: Callable[[], T]) -> T:
        """Do a few milliseconds of work in a thread, in turn with the others.

        Raises:
            Overloaded: too many wait already.
        """
        async with self.admission:
            return await to_thread.run_sync(work, limiter=self._accepting)

    async def _fetched(self, read: Callable[[], Draft | Job], owner: str) -> Draft | Job:
        if self._waiting.total() >= _WAITING + _FETCHING:
            raise Overloaded("images of many requests are being fetched; try again later, or send images as base64")

        self._waiting[owner] += 1
        turns = self._turns.setdefault(owner, asyncio.Semaphore(_FETCHING_OF_ONE))
        try:
            async with turns:
                return await to_thread.run_sync(read, limiter=self._fetching)
        finally:
            self._waiting[owner] -= 1
            if not self._waiting[owner]:
                del self._waiting[owner], self._turns[owner]
