"""Steps by torch's own operations: the network for a batch of lanes, then one lane's table row after the other.

Used on a CPU, and as the reference that the fused step is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from intarsia.backends.protocol import Step
from intarsia.backends.torch.device import upload
from intarsia.backends.torch.regions import level_mergings
from intarsia.backends.torch.state import State, batches
from intarsia.kernels.step import apply_row, guide, keep_known, langevin
from intarsia.models.merging import LevelMerging
from intarsia.models.unet import UNet
from intarsia.schedulers import Table
from intarsia.schedulers.packing import pack_matrices, repaint_levels

__all__ = ["EagerStepper"]


class EagerStepper:
    """A :class:`~intarsia.backends.torch.stepper.Stepper` that launches every operation; lanes keep their own buffers.

    Args:
        alone: evaluate each lane by itself, always in the same shape, so that its bits do not depend on other lanes.
    """

    def __init__(self, unet: UNet, device: torch.device, dtype: torch.dtype, alone: bool) -> None:
        self._unet = unet
        self._device = device
        self._dtype = dtype
        self._alone = alone

    def state_slots(self, table: Table) -> int:
        """State slots of a lane's buffer: as many as its table has."""
        return table.state_slots

    def pack(self, table: Table) -> Tensor:
        """The matrices, float32 ``[R, S, S + 2]``."""
        packed = torch.from_numpy(pack_matrices(table))
        return packed.to(self._device)

    def advance(self, steps: Sequence[Step]) -> None:
        """One evaluation, then each lane's own row."""
        for batch in batches(steps, alone=self._alone):
            predictions = self._evaluate(batch)
            for step, prediction in zip(batch, predictions, strict=True):
                self._apply_row(step, prediction)

    def sample(self, state: State) -> Tensor:
        """A lane's current sample, ``[C, h, w]``."""
        return state.buffer[0]

    def buffer(self, state: State) -> Tensor:
        """A lane's own buffer."""
        return state.buffer

    def free(self, state: State) -> None:
        """Nothing is held for a lane."""

    def free_graphs(self) -> None:
        """Nothing is captured."""

    def close(self) -> None:
        """Nothing to release."""

    def _evaluate(self, batch: Sequence[Step]) -> list[Tensor]:
        """One forward of the network; each lane's guided prediction, float32 ``[C, h, w]``."""
        states: list[State] = [step.state for step in batch]
        sample = _concatenated([self._network_input(step) for step in batch])
        embeddings = _concatenated([_embeddings(step) for step in batch])
        cross_kv = _concatenated([state.conditioning.cross_kv for state in states])

        # lanes of one batch have an IP adapter's image all, or none
        images = [state.conditioning.image_kv for state in states if state.conditioning.image_kv is not None]
        image_kv = _concatenated(images) if images else None

        output = self._unet(sample, embeddings, cross_kv, image_kv, mergings(batch))
        branch_counts = [state.branches for state in states]
        predictions = output.float().split(branch_counts)
        return [_guided(step, branches) for step, branches in zip(batch, predictions, strict=True)]

    def _network_input(self, step: Step) -> Tensor:
        """``[input_copies, in_channels, h, w]`` in channels_last memory."""
        state: State = step.state
        scale = float(state.table.input_scale[step.row])
        sample = state.buffer[0] * scale
        sample = sample.to(self._dtype)

        inpaint_latents = state.conditioning.inpaint_latents
        if inpaint_latents is not None:
            sample = torch.cat([sample, inpaint_latents])

        copies = sample[None].expand(state.input_copies, -1, -1, -1)
        return copies.contiguous(memory_format=torch.channels_last)

    def _apply_row(self, step: Step, prediction: Tensor) -> None:
        """The lane's own row, then the known region where the loop has to keep it."""
        state: State = step.state
        table = state.table
        row = step.row
        buffer = state.buffer

        buffer[-2] = prediction
        if step.noise is not None:
            buffer[-1] = upload(step.noise, self._device)

        matrix = state.packed_table[row]
        snr = float(table.langevin_snr[row])
        if snr:
            matrix = langevin(buffer, matrix, snr)
        apply_row(buffer, matrix)

        conditioning = state.conditioning
        if conditioning.keeps_known:
            image_share = float(table.known_image[row])
            noise_share = float(table.known_noise[row])
            known = image_share * conditioning.image_latents + noise_share * state.noise
            level = np.float32(repaint_levels(table)[row])  # as it is in the records of the fused step
            keep_known(buffer[0], conditioning.mask, known, float(level))


def mergings(batch: Sequence[Step]) -> tuple[LevelMerging, ...]:
    """Token merging of one evaluation; each lane brings the destinations of its own row."""
    regions = [step.state.conditioning.regions for step in batch]
    choices = [_row_choices(step) for step in batch]
    return level_mergings(regions, choices)


def _row_choices(step: Step) -> list[Tensor]:
    """The row's destinations ``[cells]`` for each region."""
    state: State = step.state
    return [destinations[step.row] for destinations in state.choices]


def _embeddings(step: Step) -> Tensor:
    """The row's time embedding for every branch, ``[branches, T]``."""
    state: State = step.state
    embeddings = state.embeddings[step.row]
    return embeddings.expand(state.branches, -1)


def _guided(step: Step, branches: Tensor) -> Tensor:
    """Classifier-free guidance of a lane's predictions ``[branches, C, h, w]``."""
    state: State = step.state
    if state.branches == 1:
        return branches[0]

    unconditional, conditional = branches
    is_guided = state.table.guided[step.row]
    scale = state.conditioning.guidance_scale if is_guided else 0.0  # 0 is the unconditional prediction alone
    return guide(unconditional, conditional, scale)


def _concatenated(tensors: Sequence[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat(list(tensors))
