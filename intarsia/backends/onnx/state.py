"""Per-request conditioning and per-lane state of the onnx session.

What lanes share stays in host arrays; a lane's latents stay in device buffers. A lane's table becomes arrays with a row
for each run of the step graph (``intarsia/export/step.py`` says what it computes). Row 0 is the start; row ``r + 1``
follows evaluation ``r``.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from intarsia.backends.onnx.buffer_pool import BufferPool
from intarsia.backends.onnx.lane_buffers import LaneInputs
from intarsia.backends.protocol import Shares
from intarsia.backends.token_regions import TokenRegion
from intarsia.schedulers import Table
from intarsia.schedulers.packing import Field, row_fields, start_fields

__all__ = ["Conditioning", "Floats", "State", "matrices", "scalars", "timesteps"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Conditioning:
    """What a request's lanes share.

    Attributes:
        cross_kv: ``[2, n, K]`` unconditional and conditional, or ``[1, n, K]`` without guidance; on the device.
        pooled: ``[2 or 1, P]`` for networks with added conditioning, else None; ``time_ids`` ``[1, 6]`` likewise.
        image_latents: ``[C, h, w]``.
        mask: ``[1, h, w]``, 1 is repainted, between 0 and 1 from a later row on.
        keeps_known: the loop overwrites the known region: the network has no input for it, or the mask is soft.
        inpaint_latents: mask and masked image's latents ``[1 + C, h, w]`` for 9-channel networks, else ``[0, h, w]``.
        image_kv: ``[2 or 1, m, K]``, keys and values of an IP adapter's image; None without one.
        regions: where and how many tokens merge, one for each resolution of the graph; none where nothing does.
    """

    cross_kv: ort.OrtValue
    pooled: Floats | None
    time_ids: Floats | None
    guidance_scale: float
    image_latents: Floats
    mask: Floats
    keeps_known: bool
    inpaint_latents: Floats
    noise_fill: bool
    image_kv: Floats | None = None
    regions: tuple[TokenRegion, ...] = ()


def timesteps(table: Table) -> Floats:
    """``[R + 1]``: those of the rows; the start has none and repeats the first."""
    first = table.timesteps[:1]
    return np.concatenate([first, table.timesteps]).astype(np.float32)


def matrices(table: Table) -> Floats:
    """``[R + 1, 3 S, S + 2]``: a row's matrix in three parts, of which the graph scales two.

    The first part is taken as it is, the second scaled by the square of Langevin's ratio of norms, the third by the
    ratio itself. Only Langevin rows have the latter two (:func:`intarsia.schedulers.tables.langevin_step`).
    """
    rows = len(table) + 1
    slots = table.state_slots
    identity = np.eye(slots, slots + 2)
    parts = np.zeros((rows, 3, slots, slots + 2))

    start = parts[0, 0]
    start[:] = identity
    start[0, 0] = table.start_image
    start[0, -1] = table.start_noise

    parts[1:, 0] = table.matrix
    for row in np.flatnonzero(table.langevin_snr):
        unscaled, by_square, by_ratio = parts[row + 1]
        change = table.matrix[row] - identity
        unscaled[:] = identity
        by_square[:, :-1] = change[:, :-1]
        by_ratio[:, -1] = change[:, -1]

    one_below_another = parts.reshape(rows, 3 * slots, slots + 2)
    return one_below_another.astype(np.float32)


def scalars(table: Table, guidance_scale: float, *, keeps_known: bool) -> Floats:
    """``[R + 1, 7]``: the fields of :class:`intarsia.schedulers.packing.Field` up to the scale of the network's next
    input, the first one multiplied by the guidance scale: 0 takes the negative prompt's output."""
    start = start_fields(table)
    rows = row_fields(table, last_scale=1.0, keeps_known=keeps_known)
    fields = np.vstack([start, rows])
    fields[:, Field.GUIDED] *= guidance_scale

    up_to_next_scale = fields[:, : Field.INPUT_SCALE]
    return up_to_next_scale.astype(np.float32)


class State:
    """One lane: its buffers, until nothing holds it any more."""

    def __init__(self, pool: BufferPool, inputs: LaneInputs) -> None:
        """Put a lane on the device and run its start."""
        self._buffers = pool.take(inputs)
        self._guidance = inputs.step_inputs["scalars"][:, Field.GUIDED]
        self._row = -1
        # a lane that is cancelled is just dropped
        weakref.finalize(self, pool.leave, self._buffers).atexit = False

    def advance(self, row: int, noise: Floats | None) -> None:
        """Evaluate the network for a row of the table, then apply the row."""
        self._buffers.advance(row, noise)
        self._row = row

    def combined(self, shares: Shares) -> Floats:
        """See :meth:`intarsia.backends.onnx.lane_buffers.LaneBuffers.combined`."""
        return self._buffers.combined(shares, float(self._guidance[self._row + 1]))

    @property
    def latents(self) -> Floats:
        """``[1, C, h, w]`` of slot 0, on the host."""
        return self._buffers.latents
