"""Static device buffers for L lanes: addresses and shapes never change, so one CUDA graph serves any set of lanes.

The row that each lane is at is in the buffers too, and a step advances it: a step needs nothing from the host, and can
be captured once and replayed (:mod:`intarsia.backends.torch.capture`). Lanes are placed and evicted between steps by
copies on the device. Positions without a lane are computed too, and their results ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from intarsia.backends.protocol import Step
from intarsia.backends.torch.capture import GraphCapturer, searching
from intarsia.backends.torch.regions import RegionShape
from intarsia.backends.torch.state import BatchKey, Conditioning, State
from intarsia.kernels.fused_step import advance, first_input
from intarsia.kernels.pick import pick_rows
from intarsia.kernels.step_lanes import StepLanes
from intarsia.models.merging import LevelMerging
from intarsia.models.unet import UNet
from intarsia.schedulers.packing import record_size

__all__ = ["Capacity", "Network", "StaticBatch"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """The network that is evaluated, and how.

    Attributes:
        fused: as :func:`intarsia.kernels.fused_step.advance` has it.
        capturer: captures a step; None launches its operations one by one, each time.
        search: cuDNN measures its algorithms when a step is captured for the second time, which takes seconds.
    """

    unet: UNet
    device: torch.device
    dtype: torch.dtype
    fused: bool | None = None
    capturer: GraphCapturer | None = None
    search: bool = False


@dataclass(frozen=True)
class Capacity:
    """What a static batch can hold.

    Attributes:
        rows: of the longest table.
        langevin: rows that take their step size from norms.
    """

    lanes: int
    rows: int
    langevin: bool

    def holds(self, other: Capacity) -> bool:
        """Whether everything that ``other`` holds fits here."""
        is_large_enough = self.lanes >= other.lanes and self.rows >= other.rows
        return is_large_enough and self.langevin >= other.langevin

    def joined(self, other: Capacity) -> Capacity:
        """The smallest capacity that holds both."""
        return Capacity(
            lanes=max(self.lanes, other.lanes),
            rows=max(self.rows, other.rows),
            langevin=self.langevin or other.langevin,
        )


class StaticBatch:
    """Buffers for ``capacity.lanes`` lanes with equal batch keys, and the captured step. It is captured empty, here.

    Args:
        template: a lane with that key; the widths of embeddings and of keys and values are read off it.
        search: cuDNN measures its algorithms during the capture.
    """

    def __init__(
        self, network: Network, key: BatchKey, capacity: Capacity, template: State, *, search: bool = False
    ) -> None:
        self.key = key
        self.capacity = capacity
        self.searched = search
        self._network = network
        self._rows: dict[State, int] = {}
        self._positions: list[State | None] = [None] * capacity.lanes
        self._allocate(template)

        work = searching(self._evaluate) if search else self._evaluate
        self._replay = network.capturer(work) if network.capturer else work

    @property
    def nbytes(self) -> int:
        """Device memory of the buffers."""
        lanes = self._lanes
        tensors = [
            lanes.state,
            lanes.records,
            lanes.network_input,
            lanes.inpaint_latents,
            lanes.image_latents,
            lanes.noise,
        ]
        tensors += [self._embeddings, self._row_embeddings, self._cross_kv, self._image_kv, *self._choices]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @property
    def is_empty(self) -> bool:
        """Whether it has no lane."""
        return not self._rows

    def __contains__(self, state: State) -> bool:
        return state in self._rows

    def place(self, steps: Sequence[Step]) -> None:
        """Hold exactly these lanes, each at its row, with its fresh noise."""
        lanes = {step.state for step in steps}
        for state in list(self._rows):
            if state not in lanes:
                self.evict(state)

        has_new_rows = False
        for step in steps:
            if self._rows.get(step.state) != step.row:
                self.add(step)
                has_new_rows = True
            if step.noise is not None:
                index = self._index_of(step.state)
                _copy_from_host(self._lanes.state[index, -1], step.noise)

        if has_new_rows:
            first_input(self._lanes, fused=self._network.fused)

    def add(self, step: Step) -> None:
        """Hold a lane too, or hold one that is here already, at that row."""
        state: State = step.state
        if state not in self._rows:
            free_index = self._positions.index(None)
            self._positions[free_index] = state
            self._fill(free_index, state)

        self._cursor[self._index_of(state)].fill_(step.row)
        self._rows[state] = step.row

    def run(self) -> None:
        """One evaluation, then every lane's own row."""
        self._replay()
        for state in self._rows:
            self._rows[state] += 1

    def buffer(self, state: State) -> Tensor:
        """A lane's state slots, guided output and fresh noise, ``[S + 2, C, h, w]``; a view."""
        return self._lanes.state[self._index_of(state)]

    def sample(self, state: State) -> Tensor:
        """A lane's current sample, ``[C, h, w]``; a view."""
        return self.buffer(state)[0]

    def evict(self, state: State) -> None:
        """Copy a lane's buffer into its own, and free its position."""
        state.buffer.copy_(self.buffer(state))
        self.free(state)

    def evict_all(self) -> None:
        """Evict every lane."""
        for state in list(self._rows):
            self.evict(state)

    def free(self, state: State) -> None:
        """Free the position of a lane that is finished."""
        index = self._index_of(state)
        self._cursor[index].fill_(-1)
        self._positions[index] = None
        del self._rows[state]

    def _index_of(self, state: State) -> int:
        return self._positions.index(state)

    def _fill(self, index: int, state: State) -> None:
        """Copy the lane's own tensors to its position; all of them are on the device."""
        lanes = self._lanes
        conditioning = state.conditioning
        slots = self.key.state_slots
        rows = len(state.packed_table)

        lanes.state[index].zero_()  # what an earlier lane left may not be finite
        lanes.state[index, :slots].copy_(state.buffer[:slots])
        lanes.records[index, :rows].copy_(state.packed_table)
        lanes.guidance[index].fill_(conditioning.guidance_scale)
        self._embeddings[index, :rows].copy_(state.embeddings)

        self._fill_conditioning(index, conditioning)
        if lanes.noise is not None:
            lanes.noise[index].copy_(state.noise)

        for buffer, destinations in zip(self._choices, state.choices, strict=True):
            buffer[index, :rows, 0].copy_(destinations)
        for merging, region in zip(self._merging, conditioning.regions, strict=True):
            if merging.protected is not None and region.protected is not None:
                merging.protected[index].copy_(region.protected)

    def _fill_conditioning(self, index: int, conditioning: Conditioning) -> None:
        lanes = self._lanes
        count = self.key.branches
        first = index * count
        branches = slice(first, first + count)
        self._cross_kv[branches].copy_(conditioning.cross_kv)
        if self._image_kv is not None and conditioning.image_kv is not None:
            self._image_kv[branches].copy_(conditioning.image_kv)

        if lanes.inpaint_latents is not None and conditioning.inpaint_latents is not None:
            lanes.inpaint_latents[index].copy_(conditioning.inpaint_latents)
        if lanes.mask is not None and lanes.image_latents is not None:
            lanes.mask[index].copy_(conditioning.mask)
            lanes.image_latents[index].copy_(conditioning.image_latents)

    def _evaluate(self) -> None:
        """The work of a step. In an empty batch it changes nothing."""
        lanes = self._lanes
        fused = self._network.fused
        for choices, row_choices in zip(self._choices, self._row_choices, strict=True):
            pick_rows(choices, self._cursor, row_choices, fused=fused)
        pick_rows(self._embeddings, self._cursor, self._row_embeddings, lanes.row, fused=fused)

        output = self._network.unet(
            lanes.network_input,
            self._row_embeddings,
            self._cross_kv,
            self._image_kv,
            self._merging,
        )
        output = output.contiguous(memory_format=torch.channels_last)
        advance(lanes, output, fused=fused)

    def _allocate(self, template: State) -> None:
        """All buffers, zero."""
        self._cursor = self._zeros((self.capacity.lanes,), torch.int32).fill_(-1)
        self._lanes = self._step_lanes()
        self._allocate_conditioning(template)
        self._allocate_merging(self.key.regions)

    def _step_lanes(self) -> StepLanes:
        key = self.key
        capacity = self.capacity
        count = capacity.lanes
        dtype = self._network.dtype

        channels, height, width = key.latents
        network_channels = channels + key.inpaint_channels
        network_input = self._zeros((key.input_copies * count, network_channels, height, width), dtype)

        inpaint_latents = mask = image_latents = noise = None
        if key.inpaint_channels:
            inpaint_latents = self._zeros((count, key.inpaint_channels, height, width), dtype)
        if key.keeps_known:  # the loop does, not the network
            mask = self._zeros((count, 1, height, width))
            image_latents = self._zeros((count, *key.latents))
            noise = self._zeros((count, *key.latents))

        return StepLanes(
            state=self._zeros((count, key.state_slots + 2, channels, height, width)),
            records=self._zeros((count, capacity.rows, record_size(key.state_slots))),
            row=self._zeros((count,), torch.int32).fill_(-1),
            guidance=self._zeros((count,)),
            network_input=network_input.to(memory_format=torch.channels_last),
            inpaint_latents=inpaint_latents,
            mask=mask,
            image_latents=image_latents,
            noise=noise,
            cursor=self._cursor,
            langevin=capacity.langevin,
            shared=key.input_copies < key.branches,
        )

    def _allocate_conditioning(self, template: State) -> None:
        """Time embeddings of all rows and of the current one; keys and values of prompts and images."""
        key = self.key
        count = self.capacity.lanes
        samples = count * key.branches

        embeddings = template.embeddings
        width = embeddings.shape[2]
        self._embeddings = self._zeros((count, self.capacity.rows, key.input_copies, width), embeddings.dtype)
        self._row_embeddings = self._zeros((samples, width), embeddings.dtype)

        cross_kv = template.conditioning.cross_kv
        kv_width = cross_kv.shape[2]
        self._cross_kv = self._zeros((samples, key.tokens, kv_width), cross_kv.dtype)
        self._image_kv = None
        if key.image_tokens:
            self._image_kv = self._zeros((samples, key.image_tokens, kv_width), cross_kv.dtype)

    def _allocate_merging(self, regions: Sequence[RegionShape]) -> None:
        """Destinations of all rows and of the current one, and what is protected, for each region."""
        count = self.capacity.lanes
        rows = self.capacity.rows
        self._choices = [self._zeros((count, rows, 1, region.cells), torch.uint8) for region in regions]
        self._row_choices = [self._zeros((count, region.cells), torch.uint8) for region in regions]

        mergings = []
        for region, row_choices in zip(regions, self._row_choices, strict=True):
            mergings.append(self._level_merging(region, row_choices))
        self._merging = tuple(mergings)

    def _level_merging(self, region: RegionShape, choice: Tensor) -> LevelMerging:
        protected = None
        if region.is_protected:
            tokens = region.height * region.width
            protected = self._zeros((self.capacity.lanes, tokens), torch.bool)
        return LevelMerging(
            height=region.height,
            width=region.width,
            merged=region.merged,
            choice=choice,
            protected=protected,
            weighted=region.weighted,
            reuse=region.reuse,
        )

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._network.device)


def _copy_from_host(target: Tensor, array: np.ndarray) -> None:
    """Copy without waiting for the device."""
    source = torch.from_numpy(array)
    if target.is_cuda:
        source = source.pin_memory()
    target.copy_(source, non_blocking=True)
