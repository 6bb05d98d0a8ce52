"""A whole step for all lanes at once: guidance, table row, known region, next network input.

Lanes have tables and row numbers of their own. Everything that differs between them, and between rows, lies
in device tensors (:class:`StepLanes`), so that one launch serves any company, nothing waits for the host,
and a captured graph stays right while lanes come and go.

Covered: every row of every table. A row that takes its step size from norms (Langevin correctors, of
ScoreSdeVe alone) needs sums over a whole picture first: a second, small kernel forms that row beforehand
and does nothing for all others. ``StepLanes.langevin`` says whether it is launched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlay.errors import BackendError
from inlay.kernels.launch import Kernel, ceil_div, check, fused_wanted, power_of_two
from inlay.kernels.step import apply_row, guide, keep_known, langevin

if TYPE_CHECKING:
    import triton.language as tl

__all__ = [
    "Rows",
    "StepLanes",
    "advance",
    "advance_reference",
    "first_input",
    "first_input_reference",
    "pack_rows",
    "record_size",
]

_BLOCK = 256
_LANGEVIN_BLOCK = 2048
# A record's entries behind its matrix: input scale of this row and of the next, shares of image and noise
# in the known region, Langevin ratio. The kernels, which may not read Python's globals, have them as numbers.
_SCALE, _NEXT, _IMAGE, _NOISE, _SNR, _EXTRAS = range(6)


class Rows(Protocol):
    """What is read of a :class:`inlay.schedulers.tables.Table` of ``R`` rows and ``S`` slots."""

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


def record_size(slots: int) -> int:
    """Length of one row's record: its matrix ``[slots, slots + 2]``, then five numbers."""
    return slots * (slots + 2) + _EXTRAS


def pack_rows(table: Rows, slots: int, rows: int) -> NDArray[np.float32]:
    """A table as records for lanes of ``slots`` state slots and ``rows`` rows, what is beyond its own zero.

    ``table.guided`` is not packed: every row is guided by its lane's scale, which is wrong for the way up of
    DDIMInverse, so such tables must not be run by this step.

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
    extras[:, _SCALE] = table.input_scale
    extras[:-1, _NEXT] = table.input_scale[1:]
    extras[:, _IMAGE], extras[:, _NOISE] = table.known_image, table.known_noise
    extras[:, _SNR] = table.langevin_snr
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
        row: int32 ``[L]``, the row to be applied; negative for an idle lane. Not moved on by a step.
        guidance: float32 ``[L]``; read where the network's batch holds two halves of each lane.
        network_input: ``[L or 2L, C or C + E, h, w]`` in channels_last memory and the network's dtype; the
            halves of a lane, unconditional first, stand side by side.
        extra: ``[L, E, h, w]`` in the network's dtype, mask and masked latents of a 9-channel network; such
            a network's known region is not overwritten.
        mask: float32 ``[L, 1, h, w]``, 1 where the network repaints; likewise clean and noise without extra.
        clean: float32 ``[L, C, h, w]``, latents of the picture.
        noise: float32 ``[L, C, h, w]``, the unit noise that the lane started from.
        langevin: some record has a Langevin ratio, or may get one.
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
    langevin: bool = True

    @property
    def slots(self) -> int:
        """State slots of a lane."""
        return self.state.shape[1] - 2

    @property
    def halves(self) -> int:
        """Rows of the network's batch that a lane has: two with guidance."""
        return self.network_input.shape[0] // self.state.shape[0]

    def __post_init__(self) -> None:
        lanes, _, channels, height, width = self.state.shape
        extra = 0 if self.extra is None else self.extra.shape[1]
        halves = 2 if self.network_input.shape[0] == 2 * lanes else 1
        self._refuse("network_input", (halves * lanes, channels + extra, height, width), torch.channels_last)
        self._refuse("records", (lanes, self.records.shape[1], record_size(self.slots)))
        self._refuse("row", (lanes,))
        self._refuse("guidance", (lanes,))
        self._refuse("state", tuple(self.state.shape))
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
            types = {"row": torch.int32, "network_input": tensor.dtype, "extra": self.network_input.dtype}
            wanted = f"{types.get(name, torch.float32)} of shape {shape}, packed"
            fits = tensor.shape == shape and tensor.dtype == types.get(name, torch.float32)
            fits &= tensor.is_contiguous(memory_format=layout) and tensor.device == self.state.device
            check(fits, "step", name, wanted, f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}")


def advance(lanes: StepLanes, output: Tensor, *, fused: bool | None = None) -> None:
    """Apply each busy lane's row to its state, and write the network input of the row after it.

    In :mod:`inlay.kernels.step`'s terms: guide, langevin, apply_row, keep_known. The output slot of the
    state holds the guided output afterwards. After a lane's last row its network input is zero (times the
    sample), and extra. Nothing is read back by the host.

    Args:
        output: the network's, ``[L or 2L, C, h, w]``, float16, bfloat16 or float32, channels_last.
        fused: None takes the kernel on CUDA and the reference elsewhere. The reference reads row numbers on
            the host.

    Raises:
        BackendError: ``output`` has another shape or layout, or triton is missing.
    """
    wanted = (lanes.network_input.shape[0], *lanes.state.shape[2:])
    packed = output.is_contiguous(memory_format=torch.channels_last)
    fits = tuple(output.shape) == wanted and packed
    found = f"of shape {tuple(output.shape)} and strides {output.stride()}"
    check(fits, "step", "output", f"of shape {wanted} in channels_last memory", found)
    if not fused_wanted(fused, lanes.state):
        advance_reference(lanes, output)
        return
    chosen = lanes.state.new_empty(lanes.state.shape[0], 3)
    if lanes.langevin:
        count = lanes.state[0, 0].numel()
        given = (lanes.state, output, lanes.records, lanes.row, lanes.guidance, chosen)
        shape = (count, lanes.state.shape[2], lanes.records.shape[1])
        block = min(_LANGEVIN_BLOCK, power_of_two(count))
        sizes = {"SLOTS": lanes.slots, "HALVES": lanes.halves, "BLOCK": block, "BLOCKS": ceil_div(count, block)}
        _langevin_rows.launch((lanes.state.shape[0],), *given, *shape, **sizes, enable_fp_fusion=False)
    _launch(lanes, output, chosen, advance=True)


def first_input(lanes: StepLanes, *, fused: bool | None = None) -> None:
    """Write the network input of each busy lane's row as its state stands, for lanes that have just entered.

    A lane under way gets the bytes that its last :func:`advance` wrote, once its row number is moved on.
    """
    if fused_wanted(fused, lanes.state):
        _launch(lanes, lanes.network_input, lanes.guidance, advance=False)
    else:
        first_input_reference(lanes)


def advance_reference(lanes: StepLanes, output: Tensor) -> None:
    """One lane after the other, by the plain operations; see :func:`advance`."""
    halves, size = lanes.halves, lanes.slots * (lanes.slots + 2)
    for lane, row in enumerate(lanes.row.tolist()):
        if row < 0:
            continue
        buffer, record = lanes.state[lane], lanes.records[lane, row]
        matrix, extras = record[:size].view(lanes.slots, -1), record[size:]
        own = output[lane * halves : (lane + 1) * halves].float()
        buffer[-2] = guide(own[0], own[1], float(lanes.guidance[lane])) if halves == 2 else own[0]
        snr = float(extras[_SNR])
        apply_row(buffer, _langevin_matrix(buffer, matrix, snr) if snr else matrix)
        if lanes.mask is not None and lanes.clean is not None and lanes.noise is not None and lanes.extra is None:
            known = extras[_IMAGE] * lanes.clean[lane] + extras[_NOISE] * lanes.noise[lane]
            keep_known(buffer[0], lanes.mask[lane], known)
        _assemble(lanes, lane, extras[_NEXT])


def first_input_reference(lanes: StepLanes) -> None:
    """One lane after the other, by the plain operations; see :func:`first_input`."""
    for lane, row in enumerate(lanes.row.tolist()):
        if row >= 0:
            _assemble(lanes, lane, lanes.records[lane, row, lanes.slots * (lanes.slots + 2) + _SCALE])


def _langevin_matrix(buffer: Tensor, matrix: Tensor, snr: float) -> Tensor:
    """The row's matrix with the step size it chooses; such a table has one slot, the lane perhaps more."""
    slots = matrix.shape[0]
    used = [0, slots, slots + 1]
    chosen = matrix.clone()
    chosen[0, used] = langevin(buffer[used], matrix[:1, used], snr)[0]
    return chosen


def _assemble(lanes: StepLanes, lane: int, scale: Tensor) -> None:
    sample = (lanes.state[lane, 0] * scale).to(lanes.network_input.dtype)
    if lanes.extra is not None:
        sample = torch.cat([sample, lanes.extra[lane]])
    lanes.network_input[lane * lanes.halves : (lane + 1) * lanes.halves] = sample


def _launch(lanes: StepLanes, output: Tensor, chosen: Tensor, *, advance: bool) -> None:
    count, kept, channels, height, width = lanes.state.shape
    inputs, places = lanes.network_input.shape[1], height * width
    blend = advance and lanes.extra is None
    # what a mode does not read needs an address all the same
    known = [each if blend and each is not None else lanes.state for each in (lanes.mask, lanes.clean, lanes.noise)]
    extra = lanes.state if lanes.extra is None else lanes.extra
    given = (lanes.state, output, lanes.records, lanes.row, lanes.guidance, chosen, *known, extra, lanes.network_input)
    shape = (places, channels, inputs, lanes.records.shape[1])
    sizes = {"SLOTS": lanes.slots, "COLUMNS": power_of_two(kept), "HALVES": lanes.halves, "BLOCK": _BLOCK}
    modes = {"BLEND": blend, "ADVANCE": advance, "LANGEVIN": lanes.langevin}
    grid = (ceil_div(inputs * places, _BLOCK), count)
    # multiplications and additions rounded one by one, as the reference does
    _step.launch(grid, *given, *shape, **sizes, **modes, enable_fp_fusion=False)


@Kernel
def _langevin_rows(
    state: tl.tensor,
    output: tl.tensor,
    records: tl.tensor,
    rows: tl.tensor,
    guidance: tl.tensor,
    chosen: tl.tensor,
    count: tl.tensor,
    channels: tl.tensor,
    length: tl.tensor,
    SLOTS: tl.constexpr,
    HALVES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """One program: the three coefficients of one lane's corrector row; ``chosen`` is ``[L, 3]``."""
    lane = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + lane)
    record = records + (lane * length + tl.maximum(row, 0)) * (SLOTS * (SLOTS + 2) + 5)
    snr = tl.load(record + SLOTS * (SLOTS + 2) + 4)
    if (row >= 0) & (snr > 0):
        places = count // channels
        sample_share = tl.load(record).to(tl.float64)
        output_share = tl.load(record + SLOTS).to(tl.float64)
        noise_share = tl.load(record + SLOTS + 1).to(tl.float64)
        scale = tl.load(guidance + lane)
        drift = tl.zeros([BLOCK], tl.float64)
        spread = tl.zeros([BLOCK], tl.float64)
        buffer = state + lane * (SLOTS + 2) * count
        for block in range(BLOCKS):
            place = block * BLOCK + tl.arange(0, BLOCK)
            inside = place < count
            pixel = output + lane * HALVES * count + (place % places) * channels + place // places
            guided = tl.load(pixel, mask=inside, other=0.0).to(tl.float32)
            if HALVES == 2:
                conditional = tl.load(pixel + count, mask=inside, other=0.0).to(tl.float32)
                guided = guided + scale * (conditional - guided)
            sample = tl.load(buffer + place, mask=inside, other=0.0).to(tl.float64)
            noise = tl.load(buffer + (SLOTS + 1) * count + place, mask=inside, other=0.0).to(tl.float64)
            move = (sample_share - 1) * sample + output_share * guided.to(tl.float64)
            drift += move * move
            spread += noise * noise
        length_of_drift = tl.sqrt(tl.sum(drift, axis=0))
        push = snr.to(tl.float64) * tl.abs(noise_share) * tl.sqrt(tl.sum(spread, axis=0))
        ratio = tl.where(length_of_drift > 0, push / tl.maximum(length_of_drift, 1e-300), 0.0)
        tl.store(chosen + lane * 3, 1 + ratio * ratio * (sample_share - 1))
        tl.store(chosen + lane * 3 + 1, ratio * ratio * output_share)
        tl.store(chosen + lane * 3 + 2, ratio * noise_share)


@Kernel
def _step(
    state: tl.tensor,
    output: tl.tensor,
    records: tl.tensor,
    rows: tl.tensor,
    guidance: tl.tensor,
    chosen: tl.tensor,
    mask: tl.tensor,
    clean: tl.tensor,
    noise: tl.tensor,
    extra: tl.tensor,
    network_input: tl.tensor,
    places: tl.tensor,
    channels: tl.tensor,
    inputs: tl.tensor,
    length: tl.tensor,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HALVES: tl.constexpr,
    BLEND: tl.constexpr,
    ADVANCE: tl.constexpr,
    LANGEVIN: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` elements of one lane's network input, in the order of the state (channels first)."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.load(rows + lane)
    if row >= 0:
        element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        place, channel = element % places, element // places
        count = channels * places
        latent = element < count
        buffer = state + lane * (SLOTS + 2) * count + element
        record = records + (lane * length + row) * (SLOTS * (SLOTS + 2) + 5)
        extras = record + SLOTS * (SLOTS + 2)
        if ADVANCE:
            pixel = output + lane * HALVES * count + place * channels + channel
            guided = tl.load(pixel, mask=latent, other=0.0).to(tl.float32)
            if HALVES == 2:
                conditional = tl.load(pixel + count, mask=latent, other=0.0).to(tl.float32)
                guided = guided + tl.load(guidance + lane) * (conditional - guided)
            # everything that the matrix maps, read before any of it is overwritten
            column = tl.arange(0, COLUMNS)
            held = (column < SLOTS + 2) & (column != SLOTS)
            before = tl.load(buffer[None, :] + column[:, None] * count, mask=held[:, None] & latent[None, :], other=0.0)
            before = tl.where((column == SLOTS)[:, None], guided[None, :], before)
            tl.store(buffer + SLOTS * count, guided, mask=latent)
            sample = guided
            for slot in tl.static_range(SLOTS - 1, -1, -1):
                line = tl.load(record + slot * (SLOTS + 2) + column, mask=column < SLOTS + 2, other=0.0)
                if LANGEVIN and slot == 0:
                    used = (column == 0) | (column == SLOTS) | (column == SLOTS + 1)
                    entry = tl.where(column == 0, 0, column - SLOTS + 1)
                    snr = tl.load(extras + 4) + tl.zeros([COLUMNS], tl.float32)
                    corrected = used & (snr > 0)
                    line = tl.where(corrected, tl.load(chosen + lane * 3 + entry, mask=corrected, other=0.0), line)
                sample = tl.sum(line[:, None] * before, axis=0)
                if slot > 0:
                    tl.store(buffer + slot * count, sample, mask=latent)
            if BLEND:
                repaint = tl.load(mask + lane * places + place, mask=latent, other=1.0) > 0.5
                picture = tl.load(clean + lane * count + element, mask=latent, other=0.0)
                unit = tl.load(noise + lane * count + element, mask=latent, other=0.0)
                known = tl.load(extras + 2) * picture + tl.load(extras + 3) * unit
                sample = tl.where(repaint, sample, known)
            tl.store(buffer, sample, mask=latent)
            scale = tl.load(extras + 1)
        else:
            sample = tl.load(buffer, mask=latent, other=0.0)
            scale = tl.load(extras)
        kind = network_input.dtype.element_ty
        value = (sample * scale).to(kind)
        beyond = (element >= count) & (element < inputs * places)
        rest = tl.load(extra + lane * (inputs - channels) * places + element - count, mask=beyond, other=0.0).to(kind)
        value = tl.where(latent, value, rest)
        target = network_input + lane * HALVES * inputs * places + place * inputs + channel
        for half in tl.static_range(HALVES):
            tl.store(target + half * inputs * places, value, mask=element < inputs * places)
