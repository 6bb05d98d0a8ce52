"""The denoising loop: admit, group, evaluate, step, retire.

A lane is one image in flight. Lanes that can share a network evaluation form a group; a group has a
bounded number of slots, filled from its own queue the moment one is free. Each turn evaluates one group
once and moves every lane in it by one row of its own table, so lanes with other schedulers, step counts
and strengths ride together, a short one leaves early and a cancelled one leaves at the next turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from intarsia.backends.protocol import Conditioning, Limited, Session, State, Step
from intarsia.engine.noise import NoiseStream
from intarsia.schedulers import Table

__all__ = ["Lane", "Lanes"]


@dataclass(eq=False)
class Lane:
    """One image in flight.

    Attributes:
        key: what must be equal for two lanes to share an evaluation: model, adapters, latent size,
            guidance mode, merging.
        session: gives the opened model; called once, when the lane is admitted.
        conditioning: gives what all images of the request share; called once, when admitted.
        owner: the request in flight that the lane belongs to; not used by the loop.
        cursor: rows already done.
    """

    key: Hashable
    sample: int
    seed: int
    table: Table
    shape: tuple[int, int, int]
    session: Callable[[], Session]
    conditioning: Callable[[], Conditioning]
    owner: object = None
    cursor: int = 0
    state: State = None
    cancelled: bool = False
    _stream: NoiseStream | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        return len(self.table.timesteps)

    @property
    def done(self) -> bool:
        return self.cursor >= self.rows

    def begin(self) -> None:
        """Draw the starting noise and take a state; the seed's stream then gives the rows' fresh noise."""
        self._stream = NoiseStream(self.seed)
        start = self._stream.draw(self.shape)
        self.state = self.session().start(self.conditioning(), self.table, start)

    def step(self) -> Step:
        """What the session needs for this lane's next row."""
        fresh: np.ndarray | None = None
        if self.table.uses_noise[self.cursor] and self._stream is not None:
            fresh = self._stream.draw(self.shape)
        return Step(self.state, self.cursor, fresh)


class Lanes:
    """All lanes in flight or waiting, for all groups.

    Args:
        slots: lanes of one group that are evaluated together.
        patience: turns that other groups wait before a group that still has work lets them go first;
            bounds the wait of requests for another model or size.
        failed: called with a lane and the exception that ended it; its siblings go on.
    """

    def __init__(self, slots: int, patience: int, failed: Callable[[Lane, Exception], None]) -> None:
        self.slots, self.patience, self._failed = slots, patience, failed
        self._groups: dict[Hashable, _Group] = {}
        self._current: Hashable = None
        self._turns = 0
        self.evaluations = 0
        self.lane_rows = 0

    def __bool__(self) -> bool:
        return any(group.waiting or group.active for group in self._groups.values())

    def add(self, lanes: Sequence[Lane]) -> None:
        """Queue lanes behind those of their group that came before."""
        for lane in lanes:
            self._groups.setdefault(lane.key, _Group()).waiting.append(lane)

    def turn(self) -> list[Lane]:
        """Admit, evaluate one group once, step; returns the lanes that moved (``done`` tells which are)."""
        self._sweep()
        group = self._choose()
        if group is None:
            return []

        self._admit(group)
        if not group.active:
            return []

        moved = self._evaluate(group.active)
        group.active = [lane for lane in moved if not lane.done]
        return moved

    def _sweep(self) -> None:
        """Remove cancelled lanes and empty groups."""
        for key, group in list(self._groups.items()):
            group.active = [lane for lane in group.active if not lane.cancelled]
            group.waiting = deque(lane for lane in group.waiting if not lane.cancelled)
            if not group.active and not group.waiting:
                del self._groups[key]

    def _choose(self) -> _Group | None:
        """Stay with the current group until it is drained or the others have waited long enough."""
        if not self._groups:
            return None
        if self._current in self._groups and (self._turns < self.patience or len(self._groups) == 1):
            self._turns += 1
            return self._groups[self._current]

        # Dictionaries keep insertion order: moving the old group to the end makes this a round robin.
        if self._current in self._groups:
            self._groups[self._current] = self._groups.pop(self._current)
        self._current, self._turns = next(iter(self._groups)), 1
        return self._groups[self._current]

    def _admit(self, group: _Group) -> None:
        while group.waiting and len(group.active) < self._room(group):
            lane = group.waiting.popleft()
            try:
                lane.begin()
            except Exception as exc:  # noqa: BLE001 - reported through the lane's own request
                lane.cancelled = True
                self._failed(lane, exc)
                continue
            group.active.append(lane)

    def _room(self, group: _Group) -> int:
        """Lanes that may be evaluated together: the slots, or fewer where the session has a limit of its own."""
        if not group.active:
            return self.slots
        session = group.active[0].session()
        if isinstance(session, Limited) and session.slots is not None:
            return min(self.slots, session.slots)
        return self.slots

    def _evaluate(self, lanes: list[Lane]) -> list[Lane]:
        try:
            lanes[0].session().advance([lane.step() for lane in lanes])
        except Exception as exc:  # noqa: BLE001 - reported to every request in the batch
            for lane in lanes:
                lane.cancelled = True
                self._failed(lane, exc)
            return []

        self.evaluations += 1
        self.lane_rows += len(lanes)
        for lane in lanes:
            lane.cursor += 1
        return lanes


@dataclass(eq=False)
class _Group:
    waiting: deque[Lane] = field(default_factory=deque)
    active: list[Lane] = field(default_factory=list)
