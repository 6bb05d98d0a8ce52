"""What the fused step reads: tables as records, and the device tensors that lanes work in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intarsia.errors import BackendError
from intarsia.kernels.launch import check

__all__ = ["Rows", "StepLanes", "pack_rows", "record_size"]

# A record's entries behind its matrix: input scale of this row and of the next, shares of image and noise
# in the known region, Langevin ratio, 1 where the row is guided and 0 where it is not, and how many these are.
# The kernels, which may not read Python's globals, have them as numbers.
SCALE, NEXT, IMAGE, NOISE, SNR, GUIDED, EXTRAS = range(7)


class Rows(Protocol):
    """What is read of a :class:`intarsia.schedulers.tables.Table` of ``R`` rows and ``S`` slots."""

    @property
    def matrix(self) -> NDArray[np.float64]:
        """``[R, S, S + 2]``."""

    @property
    def input_scale(self) -> NDArray[np.float64]:
        """``[R]``; likewise the three below."""

    @property
    def known_image(self) -> NDArray[np.float64]: ...
    @property
    def known_noise(self) -> NDArray[np.float64]: ...
    @property
    def langevin_snr(self) -> NDArray[np.float64]: ...
    @property
    def guided(self) -> NDArray[np.bool_]: ...


def record_size(slots: int) -> int:
    """Length of one row's record: its matrix ``[slots, slots + 2]``, then six numbers."""
    return slots * (slots + 2) + EXTRAS


def pack_rows(table: Rows, slots: int, rows: int) -> NDArray[np.float32]:
    """A table as records for lanes of ``slots`` state slots and ``rows`` rows, what is beyond its own zero.

    Returns:
        float32 ``[rows, record_size(slots)]``.

    Raises:
        BackendError: the table has more slots or rows.
    """
    count, own = table.matrix.shape[:2]
    if own > slots or count > rows:
        raise BackendError(f"a table of {count} rows and {own} slots does not fit lanes of {rows} and {slots}")
    matrix = np.zeros((count, slots, slots + 2))
    matrix[:, :own, :own] = table.matrix[:, :, :own]
    matrix[:, :own, slots:] = table.matrix[:, :, own:]
    records = np.zeros((rows, record_size(slots)), np.float32)
    extras = records[:count, slots * (slots + 2) :]
    records[:count, : slots * (slots + 2)] = matrix.reshape(count, -1)
    extras[:, SCALE] = table.input_scale
    extras[:-1, NEXT] = table.input_scale[1:]
    extras[:, IMAGE], extras[:, NOISE] = table.known_image, table.known_noise
    extras[:, SNR], extras[:, GUIDED] = table.langevin_snr, table.guided
    return records


@dataclass(frozen=True, eq=False)
class StepLanes:
    """Everything that ``L`` lanes of one model and latent size work in; all on one device, all contiguous.

    A lane enters by filling its places (state slots zeroed, then the starting sample in slot 0) and setting
    its row number; it leaves by a negative row number, and is then left alone.

    Attributes:
        state: float32 ``[L, S + 2, C, h, w]``: state slots, guided output, the row's fresh noise. All of it
            must be finite, as stale noise is multiplied by zero.
        records: float32 ``[L, R, record_size(S)]``, of :func:`pack_rows`.
        row: int32 ``[L]``, the row to be applied; negative, or beyond the records, for an idle lane.
        guidance: float32 ``[L]``; read where the network's output holds two halves of each lane, in guided rows.
        network_input: ``[L or 2L, C or C + E, h, w]`` in channels_last memory and the network's dtype; a
            lane's samples stand side by side.
        extra: ``[L, E, h, w]`` in the network's dtype, mask and masked latents of a 9-channel network; such
            a network's known region is not overwritten.
        mask: float32 ``[L, 1, h, w]``, 1 where the network repaints; likewise clean and noise without extra.
        clean: float32 ``[L, C, h, w]``, latents of the picture.
        noise: float32 ``[L, C, h, w]``, the unit noise that the lane started from.
        cursor: int32 ``[L]``, the row that comes next: a step writes it for busy lanes, and
            :func:`intarsia.kernels.pick.pick_rows` makes it the row. None where the caller sets ``row``.
        langevin: some record has a Langevin ratio, or may get one.
        shared: the network makes two halves of each lane out of one sample of its input.
    """

    state: Tensor
    records: Tensor
    row: Tensor
    guidance: Tensor
    network_input: Tensor
    extra: Tensor | None = None
    mask: Tensor | None = None
    clean: Tensor | None = None
    noise: Tensor | None = None
    cursor: Tensor | None = None
    langevin: bool = True
    shared: bool = False

    @property
    def slots(self) -> int:
        """State slots of a lane."""
        return self.state.shape[1] - 2

    @property
    def halves(self) -> int:
        """Samples of the network's output that a lane has: two with guidance, the unconditional one first."""
        return 2 if self.shared else self.copies

    @property
    def copies(self) -> int:
        """Samples of the network's input that a lane has, all equal."""
        return self.network_input.shape[0] // self.state.shape[0]

    def __post_init__(self) -> None:
        lanes, _, channels, height, width = self.state.shape
        extra = 0 if self.extra is None else self.extra.shape[1]
        copies = 2 if self.network_input.shape[0] == 2 * lanes and not self.shared else 1
        self._refuse("network_input", (copies * lanes, channels + extra, height, width), torch.channels_last)
        self._refuse("records", (lanes, self.records.shape[1], record_size(self.slots)))
        self._refuse("row", (lanes,))
        self._refuse("guidance", (lanes,))
        self._refuse("state", tuple(self.state.shape))
        if self.cursor is not None:
            self._refuse("cursor", (lanes,))
        if self.extra is not None:
            self._refuse("extra", (lanes, extra, height, width))
        else:
            self._refuse("mask", (lanes, 1, height, width))
            self._refuse("clean", (lanes, channels, height, width))
            self._refuse("noise", (lanes, channels, height, width))

    def _refuse(self, name: str, shape: tuple[int, ...], layout: torch.memory_format = torch.contiguous_format) -> None:
        tensor: Tensor | None = getattr(self, name)
        check(tensor is not None, "step", name, "given without extra", tensor)
        if tensor is not None:
            types = {"row": torch.int32, "cursor": torch.int32, "extra": self.network_input.dtype}
            kind = tensor.dtype if name == "network_input" else types.get(name, torch.float32)
            wanted = f"{kind} of shape {shape}, packed"
            fits = tensor.shape == shape and tensor.dtype == kind
            fits &= tensor.is_contiguous(memory_format=layout) and tensor.device == self.state.device
            check(fits, "step", name, wanted, f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}")
