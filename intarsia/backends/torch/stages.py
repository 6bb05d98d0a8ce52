"""Which stage a batch of lanes stands on: made when it is first needed, kept while there is room.

A stage is made for a company (:class:`intarsia.backends.torch.state.Company`) and a number of lanes: 1, 2, 4, 8, …
What was not used for the longest time goes, once there are too many of them or they take too much memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from intarsia.backends.protocol import Step
from intarsia.backends.torch.device import upload
from intarsia.backends.torch.memory import is_out_of_memory
from intarsia.backends.torch.stage import Network, Room, Stage
from intarsia.backends.torch.state import Company, State, batches
from intarsia.kernels.launch import power_of_two
from intarsia.schedulers import Table
from intarsia.schedulers.packing import pack_rows

__all__ = ["Limits", "StagedSteps"]

# State slots that every lane has room for: more than any solver's table uses by default, and at no cost.
_SLOTS = 6
# Tables up to this length share a stage; longer ones go by powers of two.
_ROWS = 64

# Companies of which it is known that they came up before.
_REMEMBERED = 256

_Key = tuple[Company, int]

Limits = tuple[int, int]
"""Most stages, and most bytes of their places, that one session keeps."""


class StagedSteps:
    """Lanes on stages.

    Args:
        alone: one lane a stage, always in the same shape, so that its bits do not depend on its company.
        limits: most stages, and most bytes of them all together.
        relieve: lets go of what else was recorded in this session; called when memory runs out.
    """

    def __init__(
        self, network: Network, alone: bool, limits: Limits, relieve: Callable[[], None] = lambda: None
    ) -> None:
        self._network, self._alone, self._limits, self._relieve = network, alone, limits, relieve
        self._stages: OrderedDict[_Key, Stage] = OrderedDict()
        self._recorded: OrderedDict[_Key, None] = OrderedDict()  # also what is not kept any more

    def __len__(self) -> int:
        """How many stages are kept."""
        return len(self._stages)

    def slots(self, table: Table) -> int:
        """State slots of a lane's buffer."""
        return max(_SLOTS, table.slots)

    def pack(self, table: Table) -> Tensor:
        """The table as records, float32 ``[R, record_size(S)]``."""
        return upload(pack_rows(table, self.slots(table), len(table)), self._network.device)

    def advance(self, steps: Sequence[Step]) -> None:
        """One evaluation, and each lane's row."""
        for batch in batches(steps, alone=self._alone):
            stage = self._stage(batch)
            for step in batch:
                self._leave_others(step.state, stage)
            stage.hold(batch)
            stage.run()

    def sample(self, state: State) -> Tensor:
        """``[C, h, w]``, a lane's sample as it stands."""
        stage = self._of(state)
        return state.buffer[0] if stage is None else stage.sample(state)

    def drop(self, state: State) -> None:
        """Forget a lane that is finished."""
        stage = self._of(state)
        if stage is not None:
            stage.drop(state)

    def let_go(self) -> None:
        """Release all stages; who stands on one takes its state along, and stands on a new one when it goes on."""
        for key in list(self._stages):
            self._close(key)

    def close(self) -> None:
        """Release all stages and what was recorded of them, whoever stands there."""
        self._stages.clear()

    def _of(self, state: State) -> Stage | None:
        return next((stage for stage in self._stages.values() if state in stage), None)

    def _leave_others(self, state: State, stage: Stage) -> None:
        now = self._of(state)
        if now is not None and now is not stage:
            now.leave(state)

    def _stage(self, batch: Sequence[Step]) -> Stage:
        """The smallest that has room; but lanes that became fewer stay where they are rather than wait for another."""
        company, room = batch[0].state.company, _room(batch)
        key = (company, room.lanes)
        exact = self._stages.get(key)
        if exact is None:
            current = self._of(batch[0].state)
            if current is not None and all(step.state in current for step in batch):
                return current
        if exact is None or not exact.room.holds(room) or self._is_due(exact, batch):
            exact = self._made(key, room if exact is None else exact.room.joined(room), batch[0].state)
        self._stages.move_to_end(key)
        return exact

    def _is_due(self, stage: Stage, batch: Sequence[Step]) -> bool:
        """Whether it came up again and is to be recorded anew, with a search. Lanes under way do not wait for that."""
        if not self._network.search or stage.searched or not stage.is_empty:
            return False
        return all(self._of(step.state) is None for step in batch)

    def _made(self, key: _Key, room: Room, like: State) -> Stage:
        """A new stage in place of an old one of that key; where memory does not suffice, in place of all recordings."""
        self._close(key)
        search = self._network.search and key in self._recorded
        try:
            stage = Stage(self._network, key[0], room, like, search=search)
        except RuntimeError as exc:
            if not is_out_of_memory(exc):
                raise
            stage = None
        if stage is None:  # out here, so that what failed is not held by its exception any more
            self.let_go()
            self._relieve()
            if self._network.device.type == "cuda":
                torch.cuda.empty_cache()
            stage = Stage(self._network, key[0], room, like, search=search)
        self._stages[key] = stage
        self._remember(key)
        most, most_bytes = self._limits
        while len(self._stages) > 1 and (len(self._stages) > most or self._bytes() > most_bytes):
            self._close(next(iter(self._stages)))
        return stage

    def _remember(self, key: _Key) -> None:
        self._recorded[key] = None
        self._recorded.move_to_end(key)
        if len(self._recorded) > _REMEMBERED:
            self._recorded.popitem(last=False)

    def _close(self, key: _Key) -> None:
        stage = self._stages.pop(key, None)
        if stage is not None:
            stage.leave_all()

    def _bytes(self) -> int:
        return sum(stage.nbytes for stage in self._stages.values())


def _room(batch: Sequence[Step]) -> Room:
    tables = [step.state.table for step in batch]
    rows = max(_ROWS, power_of_two(max(len(table) for table in tables)))
    return Room(power_of_two(len(batch)), rows, any(bool(table.langevin_snr.any()) for table in tables))
