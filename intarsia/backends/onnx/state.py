"""What the onnx session keeps of requests and lanes: host arrays for what is shared, device buffers for the loop.

A lane's table becomes two arrays, a row for each run of the step graph (``intarsia/export/step.py`` says what it
computes). Row 0 is the start; row ``r + 1`` follows evaluation ``r``.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from intarsia.backends.onnx.buffers import Given, Pool
from intarsia.backends.token_regions import TokenRegion
from intarsia.schedulers import Table

__all__ = ["Conditioning", "State", "matrices", "scalars", "timesteps"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What a request's lanes share.

    Attributes:
        context: ``[2, n, K]`` unconditional and conditional, or ``[1, n, K]`` without guidance; on the device.
        pooled: ``[2 or 1, P]`` for networks with added conditioning, else None; ``time_ids`` ``[1, 6]`` likewise.
        clean: latents of the image, ``[C, h, w]``; mask: ``[1, h, w]``, 1 is repainted.
        extra: mask and masked image's latents ``[1 + C, h, w]`` for 9-channel networks, else ``[0, h, w]``.
        regions: where and how many tokens merge, one for each resolution of the graph; none where nothing does.
    """

    context: ort.OrtValue
    pooled: Floats | None
    time_ids: Floats | None
    guidance: float
    clean: Floats
    mask: Floats
    extra: Floats
    noise_fill: bool
    regions: tuple[TokenRegion, ...] = ()

    @property
    def halves(self) -> int:
        return 2 if self.guidance > 1 else 1


def timesteps(table: Table) -> Floats:
    """``[R + 1]``: those of the rows; the start has none, and its place is held by the first one's."""
    return np.concatenate([table.timesteps[:1], table.timesteps]).astype(np.float32)


def matrices(table: Table) -> Floats:
    """``[R + 1, 3 S, S + 2]``: what is kept as it is, what is scaled by a ratio's square, what by the ratio itself.

    Only Langevin rows have the latter two (:func:`intarsia.schedulers.tables.langevin_step`).
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


class State:
    """One lane: its buffers, until nothing holds it any more."""

    def __init__(self, pool: Pool, given: Given) -> None:
        """Put a lane on the device and run its start."""
        self._buffers = pool.take(given)
        # a lane that is cancelled is just dropped
        weakref.finalize(self, pool.leave, self._buffers).atexit = False

    def advance(self, row: int, noise: Floats | None) -> None:
        """Evaluate the network for a row of the table, then do what the row says."""
        self._buffers.advance(row, noise)

    @property
    def latents(self) -> Floats:
        """``[1, C, h, w]`` of slot 0, on the host."""
        return self._buffers.latents
