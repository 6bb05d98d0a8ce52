"""The interface of the two ways in which lanes are stepped: :mod:`.eager_stepper` and :mod:`.captured_stepper`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from intarsia.backends.protocol import Step
from intarsia.backends.torch.state import State
from intarsia.schedulers import Table

__all__ = ["Stepper"]


class Stepper(Protocol):
    """Evaluates the network for lanes and applies their table rows."""

    def state_slots(self, table: Table) -> int:
        """State slots that the buffer of a lane with this table has; :class:`~.state.State` adds two."""
        ...

    def pack(self, table: Table) -> Tensor:
        """The table on the device, as this stepper reads it; :attr:`.state.State.packed_table`."""
        ...

    def advance(self, steps: Sequence[Step]) -> None:
        """One evaluation for all lanes, then each lane's own row, in place."""
        ...

    def sample(self, state: State) -> Tensor:
        """A lane's current sample, float32 ``[C, h, w]``; a view."""
        ...

    def buffer(self, state: State) -> Tensor:
        """A lane's ``[S + 2, C, h, w]`` as its last row left it: state slots, guided output, fresh noise; a view."""
        ...

    def free(self, state: State) -> None:
        """Release what is held for a lane that is finished."""
        ...

    def free_graphs(self) -> None:
        """Release captured graphs and their memory. Lanes that are still running can go on."""
        ...

    def close(self) -> None:
        """Release everything; no lane goes on."""
        ...
