"""Steps by torch's own operations: the network for a batch of lanes, then one lane's table row after the other.

A CPU's way, and the truth that the fused step is held to.
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

__all__ = ["PlainSteps"]


class PlainSteps:
    """Each lane's state stays in its own buffer.

    Args:
        alone: evaluate each lane by itself, always in the same shape, so that its bits do not depend on its company.
    """

    def __init__(self, unet: UNet, device: torch.device, dtype: torch.dtype, alone: bool) -> None:
        self._unet, self._device, self._dtype, self._alone = unet, device, dtype, alone

    def slots(self, table: Table) -> int:
        """State slots of a lane's buffer: as many as its table has."""
        return table.slots

    def pack(self, table: Table) -> Tensor:
        """The matrices, float32 ``[R, S, S + 2]``."""
        return torch.from_numpy(table.matrix.astype(np.float32)).to(self._device)

    def advance(self, steps: Sequence[Step]) -> None:
        """One evaluation, and each lane's row."""
        for batch in batches(steps, alone=self._alone):
            for step, output in zip(batch, self._evaluate(batch), strict=True):
                self._step(step, output)

    def sample(self, state: State) -> Tensor:
        """``[C, h, w]``, a lane's sample as it stands."""
        return state.buffer[0]

    def drop(self, state: State) -> None:
        """Forget a lane: nothing is kept of any."""

    def let_go(self) -> None:
        """Nothing is recorded."""

    def close(self) -> None:
        """Nothing to release."""

    def _evaluate(self, batch: Sequence[Step]) -> list[Tensor]:
        """One forward of the network for the batch; each lane's guided output, float32 ``[C, h, w]``."""
        states: list[State] = [step.state for step in batch]
        inputs = [self._network_input(state, step.row) for state, step in zip(states, batch, strict=True)]
        embeddings = [
            state.embeddings[step.row].expand(state.halves, -1) for state, step in zip(states, batch, strict=True)
        ]
        contexts = [state.shared.contexts for state in states]
        # lanes of one session and group have a picture beside the prompt all, or none
        images = [state.shared.image for state in states if state.shared.image is not None]
        seen = _cat(images) if images else None
        out = self._unet(_cat(inputs), _cat(embeddings), _cat(contexts), seen, mergings(batch)).float()
        guided, first = [], 0
        for step, state in zip(batch, states, strict=True):
            pair = state.halves == 2
            scale = state.shared.guidance if state.table.guided[step.row] else 0.0  # 0: the negative prompt's output
            guided.append(guide(out[first], out[first + 1], scale) if pair else out[first])
            first += state.halves
        return guided

    def _network_input(self, state: State, row: int) -> Tensor:
        """``[1 or halves, in_channels, h, w]``, channels last."""
        sample = (state.buffer[0] * float(state.table.input_scale[row])).to(self._dtype)
        if state.shared.extra is not None:
            sample = torch.cat([sample, state.shared.extra])
        inputs = sample[None].expand(state.copies, -1, -1, -1)
        return inputs.contiguous(memory_format=torch.channels_last)

    def _step(self, step: Step, output: Tensor) -> None:
        """The lane's own row, then the known region where the loop has to keep it."""
        state: State = step.state
        table, row, buffer, shared = state.table, step.row, state.buffer, state.shared
        buffer[-2] = output
        if step.noise is not None:
            buffer[-1] = upload(step.noise, self._device)
        matrix = state.rows[row]
        snr = float(table.langevin_snr[row])
        apply_row(buffer, langevin(buffer, matrix, snr) if snr else matrix)
        if shared.extra is None:
            image, noise = float(table.known_image[row]), float(table.known_noise[row])
            keep_known(buffer[0], shared.mask, image * shared.clean + noise * state.noise)


def mergings(batch: Sequence[Step]) -> tuple[LevelMerging, ...]:
    """Token merging of one evaluation; each lane brings the destinations of its own row."""
    choices = [[drawn[step.row] for drawn in step.state.choices] for step in batch]
    return level_mergings([step.state.shared.regions for step in batch], choices)


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
