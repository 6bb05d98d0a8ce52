"""The device tensors that lanes work in, as the fused step reads and writes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia.kernels.launch import check, described
from intarsia.schedulers.packing import record_size

__all__ = ["StepLanes"]


@dataclass(frozen=True, eq=False, kw_only=True)
class StepLanes:
    """Static buffers of ``L`` lanes of one model and latent size; all on one device, all contiguous.

    A lane enters by filling its part of them (state slots zeroed, then the starting sample in slot 0) and setting its
    row number; it leaves by a negative row number, and is then left alone.

    Attributes:
        state: float32 ``[L, S + 2, C, h, w]``: state slots, guided output, the row's fresh noise. All of it must be
            finite, as stale noise is multiplied by zero.
        records: float32 ``[L, R, record_size(S)]``, of :func:`intarsia.schedulers.packing.pack_rows`.
        row: int32 ``[L]``, the row to be applied; negative, or beyond the records, for an idle lane.
        guidance: float32 ``[L]``; read where the network's output has two branches of each lane, in guided rows.
        network_input: ``[L or 2L, C or C + E, h, w]`` in channels_last memory and the network's dtype; a lane's samples
            are adjacent.
        inpaint_latents: ``[L, E, h, w]`` in the network's dtype, mask and masked image's latents of a 9-channel
            network; such a network's known region is not overwritten unless there is a ``mask``.
        mask: float32 ``[L, 1, h, w]``, 1 where the network repaints, between 0 and 1 where it begins later; needed, as
            the next two, where there are no ``inpaint_latents``.
        image_latents: float32 ``[L, C, h, w]``, latents of the image.
        noise: float32 ``[L, C, h, w]``, the unit noise that the lane started from.
        cursor: int32 ``[L]``, the row that comes next: a step writes it for busy lanes, and
            :func:`intarsia.kernels.pick.pick_rows` makes it the row. None where the caller sets ``row``.
        langevin: some record has a Langevin ratio, or may get one.
        shared: both guidance branches of a lane come from one sample of the network's input.
    """

    state: Tensor
    records: Tensor
    row: Tensor
    guidance: Tensor
    network_input: Tensor
    inpaint_latents: Tensor | None = None
    mask: Tensor | None = None
    image_latents: Tensor | None = None
    noise: Tensor | None = None
    cursor: Tensor | None = None
    langevin: bool = True
    shared: bool = False

    @property
    def slots(self) -> int:
        """State slots of a lane."""
        return self.state.shape[1] - 2

    @property
    def branches(self) -> int:
        """Samples of the network's output that a lane has: two with guidance, the unconditional one first."""
        if self.shared:
            return 2
        return self.copies

    @property
    def copies(self) -> int:
        """Samples of the network's input that a lane has, all equal."""
        return self.network_input.shape[0] // self.state.shape[0]

    @property
    def keeps_known(self) -> bool:
        """A step overwrites the known region: the network has no input for it, or the mask is soft."""
        return self.mask is not None

    @property
    def next_row(self) -> Tensor:
        """int32 ``[L]``, the row that comes next: the cursor's, or ``row`` without one."""
        if self.cursor is None:
            return self.row
        return self.cursor

    def __post_init__(self) -> None:
        lanes, _, channels, height, width = self.state.shape
        dtype = self.network_input.dtype
        inpaint_channels = 0 if self.inpaint_latents is None else self.inpaint_latents.shape[1]
        has_two_copies = not self.shared and len(self.network_input) == 2 * lanes
        samples = 2 * lanes if has_two_copies else lanes

        self._check("network_input", (samples, channels + inpaint_channels, height, width), dtype, torch.channels_last)
        self._check("records", (lanes, self.records.shape[1], record_size(self.slots)))
        self._check("row", (lanes,), torch.int32)
        self._check("guidance", (lanes,))
        self._check("state", tuple(self.state.shape))
        if self.cursor is not None:
            self._check("cursor", (lanes,), torch.int32)

        if self.inpaint_latents is not None:
            self._check("inpaint_latents", (lanes, inpaint_channels, height, width), dtype)
        if self.inpaint_latents is None or self.keeps_known:
            self._check("mask", (lanes, 1, height, width))
            self._check("image_latents", (lanes, channels, height, width))
            self._check("noise", (lanes, channels, height, width))

    def _check(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        tensor: Tensor | None = getattr(self, name)
        check(tensor is not None, f"step: {name}", "given without inpaint_latents", tensor)
        if tensor is None:
            return

        fits = tensor.shape == shape and tensor.dtype == dtype
        fits &= tensor.is_contiguous(memory_format=layout)
        fits &= tensor.device == self.state.device
        actual = f"{described(tensor)} on {tensor.device}"
        check(fits, f"step: {name}", f"{dtype} of shape {shape}, packed", actual)
