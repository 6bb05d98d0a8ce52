"""Fixed places on the device for a number of lanes, so that a step is the same work whoever stands in them.

A stage has the buffers of ``L`` lanes: state, tables, time embeddings, prompts, masks. Which row each lane is at stands
in them too and moves on by itself, so that a step needs nothing from the host, and can be recorded once and replayed
(:mod:`intarsia.backends.torch.capture`). Lanes enter and leave between steps by copies on the device; empty places
compute and are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from intarsia.backends.protocol import Step
from intarsia.backends.torch.capture import Recorder, searching
from intarsia.backends.torch.state import Company, State
from intarsia.kernels.fused_step import advance, first_input
from intarsia.kernels.pick import pick_rows
from intarsia.kernels.step_lanes import StepLanes, record_size
from intarsia.models.merging import LevelMerging
from intarsia.models.unet import UNet

__all__ = ["Network", "Room", "Stage"]


@dataclass(frozen=True, eq=False)
class Network:
    """What is evaluated on a stage, and how.

    Attributes:
        fused: as :func:`intarsia.kernels.fused_step.advance` has it.
        recorder: what records a step; None launches its operations one by one, each time.
        search: cuDNN measures its algorithms when a step is recorded for the second time, which takes seconds.
    """

    unet: UNet
    device: torch.device
    dtype: torch.dtype
    fused: bool | None = None
    recorder: Recorder | None = None
    search: bool = False


@dataclass(frozen=True)
class Room:
    """What a stage has room for.

    Attributes:
        rows: of the longest table.
        langevin: rows that take their step size from norms.
    """

    lanes: int
    rows: int
    langevin: bool

    def holds(self, other: Room) -> bool:
        """Whether what fits ``other`` fits here."""
        return self.lanes >= other.lanes and self.rows >= other.rows and self.langevin >= other.langevin

    def joined(self, other: Room) -> Room:
        """Room for either."""
        return Room(max(self.lanes, other.lanes), max(self.rows, other.rows), self.langevin or other.langevin)


class Stage:
    """Places for ``room.lanes`` lanes of one company. Recording it happens here, while it is empty.

    Args:
        like: a lane of the company.
        search: cuDNN measures its algorithms while it is recorded.
    """

    def __init__(self, network: Network, company: Company, room: Room, like: State, *, search: bool = False) -> None:
        self.searched = search
        self.company, self.room, self._network = company, room, network
        self._rows: dict[State, int] = {}
        self._places: list[State | None] = [None] * room.lanes
        self._allocate(like)
        work = searching(self._evaluate) if search else self._evaluate
        self._replay = network.recorder(work) if network.recorder else work

    @property
    def nbytes(self) -> int:
        """Device memory of the places."""
        lanes = self._lanes
        tensors = [lanes.state, lanes.records, lanes.network_input, lanes.extra, lanes.clean, lanes.noise]
        tensors += [self._times, self._picked, self._context, self._image, *self._choices]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @property
    def is_empty(self) -> bool:
        """Whether no lane stands on it."""
        return not self._rows

    def __contains__(self, state: State) -> bool:
        return state in self._rows

    def hold(self, steps: Sequence[Step]) -> None:
        """Make these lanes, and no others, stand on it, each at its row, with its fresh noise."""
        wanted = {step.state for step in steps}
        for state in [state for state in self._rows if state not in wanted]:
            self.leave(state)
        moved = False
        for step in steps:
            if self._rows.get(step.state) != step.row:
                self._enter(step)
                moved = True
            if step.noise is not None:
                self._put(self._lanes.state[self._places.index(step.state), -1], step.noise)
        if moved:
            first_input(self._lanes, fused=self._network.fused)

    def run(self) -> None:
        """One evaluation, then every lane's own row."""
        self._replay()
        for state in self._rows:
            self._rows[state] += 1

    def sample(self, state: State) -> Tensor:
        """``[C, h, w]``, a lane's sample as it stands; a view."""
        return self._lanes.state[self._places.index(state), 0]

    def leave(self, state: State) -> None:
        """A lane goes, and takes its state slots with it."""
        slots = self.company.slots
        state.buffer[:slots].copy_(self._lanes.state[self._places.index(state), :slots])
        self.drop(state)

    def leave_all(self) -> None:
        """Every lane goes."""
        for state in list(self._rows):
            self.leave(state)

    def drop(self, state: State) -> None:
        """A lane that is finished goes."""
        place = self._places.index(state)
        self._cursor[place].fill_(-1)
        self._places[place] = None
        del self._rows[state]

    def _enter(self, step: Step) -> None:
        """Put a lane into its place, or into a free one."""
        state: State = step.state
        if state not in self._rows:
            self._places[self._places.index(None)] = state
            self._fill(self._places.index(state), state)
        self._cursor[self._places.index(state)].fill_(step.row)
        self._rows[state] = step.row

    def _fill(self, place: int, state: State) -> None:
        """Copies from the lane's own tensors; on the device, all of them."""
        lanes, shared, slots, rows = self._lanes, state.shared, self.company.slots, len(state.rows)
        lanes.state[place].zero_()  # whatever was here before may not be finite
        lanes.state[place, :slots].copy_(state.buffer[:slots])
        lanes.records[place, :rows].copy_(state.rows)
        lanes.guidance[place].fill_(shared.guidance)
        self._times[place, :rows].copy_(state.embeddings)
        halves = slice(place * state.halves, (place + 1) * state.halves)
        self._context[halves].copy_(shared.contexts)
        if self._image is not None and shared.image is not None:
            self._image[halves].copy_(shared.image)
        if lanes.extra is not None and shared.extra is not None:
            lanes.extra[place].copy_(shared.extra)
        if lanes.mask is not None and lanes.clean is not None and lanes.noise is not None:
            for target, source in ((lanes.mask, shared.mask), (lanes.clean, shared.clean), (lanes.noise, state.noise)):
                target[place].copy_(source)
        for table, drawn in zip(self._choices, state.choices, strict=True):
            table[place, :rows, 0].copy_(drawn)
        for level, region in zip(self._merging, shared.regions, strict=True):
            if level.protected is not None and region.protected is not None:
                level.protected[place].copy_(region.protected)

    def _put(self, target: Tensor, array: np.ndarray) -> None:
        """From the host, without waiting."""
        source = torch.from_numpy(array)
        if target.is_cuda:
            source = source.pin_memory()
        target.copy_(source, non_blocking=True)

    def _evaluate(self) -> None:
        """The work of a step. Of an empty stage it changes nothing."""
        lanes, fused = self._lanes, self._network.fused
        for table, chosen in zip(self._choices, self._chosen, strict=True):
            pick_rows(table, self._cursor, chosen, fused=fused)
        pick_rows(self._times, self._cursor, self._picked, lanes.row, fused=fused)
        out = self._network.unet(lanes.network_input, self._picked, self._context, self._image, self._merging)
        advance(lanes, out.contiguous(memory_format=torch.channels_last), fused=fused)

    def _allocate(self, like: State) -> None:
        """Everything zero; the widths of embeddings and contexts are the network's, read off a lane."""
        company, room = self.company, self.room
        count, halves = room.lanes, company.halves
        channels, height, width = company.latents
        record = record_size(company.slots)
        self._cursor = self._zeros((count,), torch.int32).fill_(-1)
        blends = company.extra == 0
        given = self._zeros((company.copies * count, channels + company.extra, height, width), self._network.dtype)
        self._lanes = StepLanes(
            state=self._zeros((count, company.slots + 2, channels, height, width)),
            records=self._zeros((count, room.rows, record)),
            row=self._zeros((count,), torch.int32).fill_(-1),
            guidance=self._zeros((count,)),
            network_input=given.to(memory_format=torch.channels_last),
            extra=None if blends else self._zeros((count, company.extra, height, width), self._network.dtype),
            mask=self._zeros((count, 1, height, width)) if blends else None,
            clean=self._zeros((count, *company.latents)) if blends else None,
            noise=self._zeros((count, *company.latents)) if blends else None,
            cursor=self._cursor,
            langevin=room.langevin,
            shared=company.copies < halves,
        )
        times, contexts = like.embeddings, like.shared.contexts
        own = halves if company.own_times else 1
        self._times = self._zeros((count, room.rows, own, times.shape[2]), times.dtype)
        self._picked = self._zeros((halves * count, times.shape[2]), times.dtype)
        self._context = self._zeros((halves * count, company.tokens, contexts.shape[2]), contexts.dtype)
        image = (halves * count, company.image_tokens, contexts.shape[2])
        self._image = self._zeros(image, contexts.dtype) if company.image_tokens else None
        self._allocate_merging()

    def _allocate_merging(self) -> None:
        count, levels = self.room.lanes, self.company.levels
        self._choices = [self._zeros((count, self.room.rows, 1, level.cells), torch.uint8) for level in levels]
        self._chosen = [self._zeros((count, level.cells), torch.uint8) for level in levels]
        self._merging = tuple(
            LevelMerging(
                height=level.height,
                width=level.width,
                merged=level.merged,
                choice=chosen,
                protected=self._zeros((count, level.height * level.width), torch.bool) if level.protects else None,
                weighted=level.weighted,
                reuse=level.reuse,
            )
            for level, chosen in zip(levels, self._chosen, strict=True)
        )

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._network.device)
