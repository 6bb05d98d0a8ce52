"""What the onnx session keeps of requests and lanes: host arrays for what is shared, device buffers for the loop.

A lane's table becomes two arrays, a row for each run of the step graph (``inlay/export/step.py`` says what it
computes). Row 0 is the start; row ``r + 1`` follows evaluation ``r``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from inlay.backends.onnx.device import Device
from inlay.backends.onnx.merging import Level
from inlay.schedulers import Table

__all__ = ["Conditioning", "Loop", "State", "matrices", "scalars", "timesteps"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What a request's lanes share.

    Attributes:
        context: ``[2, n, K]`` unconditional and conditional, or ``[1, n, K]`` without guidance; on the device.
        pooled: ``[2 or 1, P]`` for networks with added conditioning, else None; ``time_ids`` ``[1, 6]`` likewise.
        clean: latents of the image, ``[C, h, w]``; mask: ``[1, h, w]``, 1 is repainted.
        extra: mask and masked image's latents ``[1 + C, h, w]`` for 9-channel networks, else ``[0, h, w]``.
        levels: where and how many tokens merge; none where nothing does.
    """

    context: ort.OrtValue
    pooled: Floats | None
    time_ids: Floats | None
    guidance: float
    clean: Floats
    mask: Floats
    extra: Floats
    noise_fill: bool
    levels: tuple[Level, ...] = ()

    @property
    def halves(self) -> int:
        return 2 if self.guidance > 1 else 1


def timesteps(table: Table) -> Floats:
    """``[R + 1]``: those of the rows; the start has none, and its place is held by the first one's."""
    return np.concatenate([table.timesteps[:1], table.timesteps]).astype(np.float32)


def matrices(table: Table) -> Floats:
    """``[R + 1, 3 S, S + 2]``: what is kept as it is, what is scaled by a ratio's square, what by the ratio itself.

    Only Langevin rows have the latter two (:func:`inlay.schedulers.tables.langevin_step`).
    """
    slots = table.slots
    made = np.zeros((len(table) + 1, 3, slots, slots + 2))
    made[0, 0] = np.eye(slots, slots + 2)
    made[0, 0, 0, 0], made[0, 0, 0, -1] = table.start_image, table.start_noise
    made[1:, 0] = table.matrix
    for row in np.flatnonzero(table.langevin_snr):
        same = np.eye(slots, slots + 2)
        moved = table.matrix[row] - same
        made[row + 1, 0] = same
        made[row + 1, 1, :, :-1], made[row + 1, 2, :, -1] = moved[:, :-1], moved[:, -1]
    return made.reshape(len(table) + 1, 3 * slots, slots + 2).astype(np.float32)


def scalars(table: Table, guidance: float, *, keeps_known: bool) -> Floats:
    """``[R + 1, 6]``: guidance scale; known region's shares of image, noise and the sample itself; Langevin's ratio of
    norms; scale of the network's next input."""
    made = np.zeros((len(table) + 1, 6))
    # 0 takes the negative prompt's output
    made[1:, 0] = np.where(table.guided, guidance, 0.0)
    made[:, 3] = 1
    if keeps_known:
        made[1:, 1], made[1:, 2], made[1:, 3] = table.known_image, table.known_noise, 0
    made[1:, 4] = table.langevin_snr
    made[:, 5] = np.append(table.input_scale, 1)
    return made.astype(np.float32)


@dataclass(frozen=True)
class Loop:
    """The two graphs that take turns: the network, and a row of the table."""

    network: ort.InferenceSession
    step: ort.InferenceSession
    device: Device


class State:
    """One lane on the device. Two buffers take turns as its state; everything is bound once, when it starts."""

    def __init__(
        self, loop: Loop, context: ort.OrtValue, told: Mapping[str, np.ndarray], arrays: Mapping[str, Floats]
    ) -> None:
        """Put a lane on the device and run its start.

        Args:
            context: ``[halves, n, K]``, on the device.
            told: what else the network takes: ``embeddings`` ``[R + 1, 1 or halves, T]``, and indices of tokens.
            arrays: by the names of the step graph's inputs; ``state`` is ``[S, C, h, w]`` before the start and
                ``noise`` the starting noise.
        """
        put, first = loop.device.put, arrays["state"]
        held = {name: put(array) for name, array in arrays.items()}
        _, *shape = first.shape
        held["output"] = put(np.zeros((context.shape()[0], *shape), np.float32))
        self._row = held["row"] = put(np.zeros(1, np.int64))
        self._noise = held["noise"]
        self._buffers = [held.pop("state"), loop.device.empty(*first.shape)]
        sample = loop.device.empty(1, shape[0] + len(arrays["extra"]), *shape[1:])
        inputs = {name: put(array) for name, array in told.items()}
        inputs |= {"sample": sample, "row": self._row, "context": context}
        self._network = _Call(loop.network, inputs, {"output": held["output"]})
        self._steps = [
            _Call(loop.step, {**held, "state": old}, {"new_state": new, "sample": sample})
            for old, new in (self._buffers, self._buffers[::-1])
        ]
        self._turn()

    def advance(self, row: int, noise: Floats | None) -> None:
        """Evaluate the network for a row of the table, then do what the row says."""
        self._row.update_inplace(np.array([row + 1], np.int64))
        if noise is not None:
            self._noise.update_inplace(np.ascontiguousarray(noise))
        self._network.run()
        self._turn()

    @property
    def latents(self) -> Floats:
        """``[1, C, h, w]`` of slot 0, on the host."""
        latents: Floats = self._buffers[0].numpy()[:1]
        return latents

    def _turn(self) -> None:
        self._steps[0].run()
        self._steps.reverse()
        self._buffers.reverse()


class _Call:
    """A session with its buffers bound."""

    def __init__(
        self, session: ort.InferenceSession, inputs: dict[str, ort.OrtValue], outputs: dict[str, ort.OrtValue]
    ) -> None:
        self._session, self._binding = session, session.io_binding()
        for name, value in inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)
