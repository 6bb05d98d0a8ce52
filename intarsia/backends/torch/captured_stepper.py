"""Steps of lanes in static batches: a batch is made and captured when it is first needed, and kept while it fits.

A static batch is made for a key (:class:`intarsia.backends.torch.state.BatchKey`) and 1, 2, 4, 8, … lanes. Once there
are too many of them, or they take too much memory, the least recently used is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from intarsia.backends.protocol import Step
from intarsia.backends.torch.device import upload
from intarsia.backends.torch.memory import is_out_of_memory
from intarsia.backends.torch.state import BatchKey, State, batches
from intarsia.backends.torch.static_batch import Capacity, Network, StaticBatch
from intarsia.kernels.launch import power_of_two
from intarsia.lru import Lru
from intarsia.schedulers import Table
from intarsia.schedulers.packing import pack_rows

__all__ = ["CapturedStepper", "Limits"]

# State slots that every lane has at least: more than any solver's table uses by default, and at no cost.
_STATE_SLOTS = 6
# Tables up to this length share a batch; longer ones go by powers of two.
_ROWS = 64

# Keys of batches that were captured before, kept or not.
_REMEMBERED_KEYS = 256


class _Key(NamedTuple):
    """Of a static batch."""

    lanes_key: BatchKey
    lanes: int


class Limits(NamedTuple):
    """Most static batches, and most bytes of their buffers, that one session keeps."""

    batches: int
    nbytes: int


class CapturedStepper:
    """A :class:`~intarsia.backends.torch.stepper.Stepper` that replays captured steps.

    Args:
        alone: one lane a batch, always in the same shape, so that its bits do not depend on other lanes.
        free_others: frees what else was captured in this session; called when memory runs out.
    """

    def __init__(
        self, network: Network, alone: bool, limits: Limits, free_others: Callable[[], None] = lambda: None
    ) -> None:
        self._network = network
        self._alone = alone
        self._limits = limits
        self._free_others = free_others
        self._batches: Lru[_Key, StaticBatch] = Lru(None)
        self._captured_before: Lru[_Key, bool] = Lru(_REMEMBERED_KEYS)

    def __len__(self) -> int:
        """How many static batches are kept."""
        return len(self._batches)

    def state_slots(self, table: Table) -> int:
        """State slots of a lane's buffer: as many as most tables need, so that their lanes share batches."""
        return max(_STATE_SLOTS, table.state_slots)

    def pack(self, table: Table) -> Tensor:
        """The table as records, float32 ``[R, record_size(S)]``."""
        records = pack_rows(table, self.state_slots(table), len(table))
        return upload(records, self._network.device)

    def advance(self, steps: Sequence[Step]) -> None:
        """One evaluation, then each lane's own row."""
        for lanes in batches(steps, alone=self._alone):
            batch = self._batch_for(lanes)
            for step in lanes:
                self._evict_elsewhere(step.state, batch)
            batch.place(lanes)
            batch.run()

    def sample(self, state: State) -> Tensor:
        """A lane's current sample, ``[C, h, w]``."""
        return self.buffer(state)[0]

    def buffer(self, state: State) -> Tensor:
        """A lane's buffer, in its batch or its own."""
        batch = self._batch_of(state)
        if batch is None:
            return state.buffer
        return batch.buffer(state)

    def free(self, state: State) -> None:
        """Free the position of a lane that is finished."""
        batch = self._batch_of(state)
        if batch is not None:
            batch.free(state)

    def free_graphs(self) -> None:
        """Free every static batch. Lanes still running copy their state out and are placed again at their next step."""
        for key in list(self._batches):
            self._free_batch(key)

    def close(self) -> None:
        """Free every static batch; the states of their lanes are lost."""
        self._batches = Lru(None)

    def _batch_of(self, state: State) -> StaticBatch | None:
        for batch in self._batches.values():
            if state in batch:
                return batch
        return None

    def _evict_elsewhere(self, state: State, batch: StaticBatch) -> None:
        """Evict a lane from where it is, unless that is ``batch``."""
        current = self._batch_of(state)
        if current is not None and current is not batch:
            current.evict(state)

    def _batch_for(self, steps: Sequence[Step]) -> StaticBatch:
        """The smallest batch that fits.

        A group that shrank keeps its larger one: capturing a new size costs more than idle positions.
        """
        template: State = steps[0].state
        capacity = _needed(steps)
        key = _Key(template.batch_key, capacity.lanes)
        batch = self._batches.get(key)

        if batch is None:
            current = self._batch_of(template)
            if current is not None and all(step.state in current for step in steps):
                return current
            return self._new_batch(key, capacity, template)

        if not batch.capacity.holds(capacity) or self._is_due_for_search(batch, steps):
            joined = batch.capacity.joined(capacity)
            return self._new_batch(key, joined, template)
        return batch

    def _is_due_for_search(self, batch: StaticBatch, steps: Sequence[Step]) -> bool:
        """Whether to capture anew, with a search, a batch that is used again. Lanes under way do not wait for that."""
        if not self._network.search or batch.searched or not batch.is_empty:
            return False
        return all(self._batch_of(step.state) is None for step in steps)

    def _new_batch(self, key: _Key, capacity: Capacity, template: State) -> StaticBatch:
        """A new batch in place of an old one with that key; if memory runs out, in place of all that is captured."""
        self._free_batch(key)
        search = self._network.search and key in self._captured_before

        try:
            batch = StaticBatch(self._network, key.lanes_key, capacity, template, search=search)
        except RuntimeError as exc:
            if not is_out_of_memory(exc):
                raise
            batch = None
        if batch is None:  # Outside the `except`: its traceback would keep the failed tensors alive.
            self._make_room()
            batch = StaticBatch(self._network, key.lanes_key, capacity, template, search=search)

        self._batches.put(key, batch)
        self._captured_before.put(key, True)
        self._free_surplus()
        return batch

    def _make_room(self) -> None:
        """Free everything that is captured in this session."""
        self.free_graphs()
        self._free_others()
        if self._network.device.type == "cuda":
            torch.cuda.empty_cache()

    def _free_surplus(self) -> None:
        """Free the least recently used batches beyond the limits, but never the last one."""
        while len(self._batches) > 1 and self._is_over_limits():
            self._free_batch(next(iter(self._batches)))

    def _is_over_limits(self) -> bool:
        nbytes = sum(batch.nbytes for batch in self._batches.values())
        return len(self._batches) > self._limits.batches or nbytes > self._limits.nbytes

    def _free_batch(self, key: _Key) -> None:
        if key in self._batches:
            batch = self._batches.pop(key)
            batch.evict_all()


def _needed(steps: Sequence[Step]) -> Capacity:
    """The capacity that these lanes need."""
    tables: list[Table] = [step.state.table for step in steps]
    longest = max(len(table) for table in tables)
    has_langevin = any(bool(table.langevin_snr.any()) for table in tables)
    return Capacity(
        lanes=power_of_two(len(steps)),
        rows=max(_ROWS, power_of_two(longest)),
        langevin=has_langevin,
    )
