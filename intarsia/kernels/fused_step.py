"""A whole step for all lanes at once: guidance, table row, known region, next network input.

Lanes have tables and row numbers of their own. Everything that differs between them, and between rows, lies
in device tensors (:class:`intarsia.kernels.step_lanes.StepLanes`), so that one launch serves any company, nothing
waits for the host, and a captured graph stays right while lanes come and go.

Covered: every row of every table. A row that takes its step size from norms (Langevin correctors, of
ScoreSdeVe alone) needs sums over a whole picture first: a second, small kernel forms that row beforehand
and does nothing for all others. ``StepLanes.langevin`` says whether it is launched.

On the meta device a step is one operation, ``torch.ops.intarsia.step``, that does nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted, power_of_two
from intarsia.kernels.step import apply_row, guide, keep_known, langevin
from intarsia.kernels.step_lanes import GUIDED, IMAGE, NEXT, NOISE, SCALE, SNR, StepLanes

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["advance", "advance_reference", "first_input", "first_input_reference"]

_BLOCK = 256
_LANGEVIN_BLOCK = 2048


def advance(lanes: StepLanes, output: Tensor, *, fused: bool | None = None) -> None:
    """Apply each busy lane's row to its state, and write the network input of the row after it.

    In :mod:`intarsia.kernels.step`'s terms: guide, langevin, apply_row, keep_known. The output slot of the
    state holds the guided output afterwards. After a lane's last row its network input is zero (times the
    sample), and extra. Nothing is read back by the host.

    Args:
        output: the network's, ``[L or 2L, C, h, w]``, float16, bfloat16 or float32, channels_last.
        fused: None takes the kernel on CUDA and the reference elsewhere. The reference reads row numbers on
            the host.

    Raises:
        BackendError: ``output`` has another shape or layout, or triton is missing.
    """
    wanted = (lanes.halves * lanes.state.shape[0], *lanes.state.shape[2:])
    packed = output.is_contiguous(memory_format=torch.channels_last)
    fits = tuple(output.shape) == wanted and packed
    found = f"of shape {tuple(output.shape)} and strides {output.stride()}"
    check(fits, "step", "output", f"of shape {wanted} in channels_last memory", found)
    if fused_wanted(fused, lanes.state):
        tensors = (lanes.state, output, lanes.records, lanes.row, lanes.guidance, lanes.network_input)
        torch.ops.intarsia.step(
            *tensors, lanes.extra, lanes.mask, lanes.clean, lanes.noise, lanes.cursor, lanes.langevin
        )
    else:
        advance_reference(lanes, output)


def first_input(lanes: StepLanes, *, fused: bool | None = None) -> None:
    """Write the network input of each busy lane's next row as its state stands, for lanes that have just entered.

    The next row is the cursor's, or ``row`` without one. A lane under way gets the bytes that its last
    :func:`advance` wrote, once its row number is moved on.
    """
    if lanes.state.is_meta:
        return
    if fused_wanted(fused, lanes.state):
        _launch(lanes, lanes.network_input, lanes.guidance, advance=False)
    else:
        first_input_reference(lanes)


def advance_reference(lanes: StepLanes, output: Tensor) -> None:
    """One lane after the other, by the plain operations; see :func:`advance`."""
    halves, size = lanes.halves, lanes.slots * (lanes.slots + 2)
    for lane, row in enumerate(lanes.row.tolist()):
        if not 0 <= row < lanes.records.shape[1]:
            continue
        buffer, record = lanes.state[lane], lanes.records[lane, row]
        matrix, extras = record[:size].view(lanes.slots, -1), record[size:]
        own = output[lane * halves : (lane + 1) * halves].float()
        scale = float(lanes.guidance[lane] * extras[GUIDED])
        buffer[-2] = guide(own[0], own[1], scale) if halves == 2 else own[0]
        snr = float(extras[SNR])
        apply_row(buffer, _langevin_matrix(buffer, matrix, snr) if snr else matrix)
        if lanes.mask is not None and lanes.clean is not None and lanes.noise is not None and lanes.extra is None:
            known = extras[IMAGE] * lanes.clean[lane] + extras[NOISE] * lanes.noise[lane]
            keep_known(buffer[0], lanes.mask[lane], known)
        _assemble(lanes, lane, extras[NEXT])
        if lanes.cursor is not None:
            lanes.cursor[lane] = row + 1


def first_input_reference(lanes: StepLanes) -> None:
    """One lane after the other, by the plain operations; see :func:`first_input`."""
    for lane, row in enumerate(_next_rows(lanes).tolist()):
        if 0 <= row < lanes.records.shape[1]:
            _assemble(lanes, lane, lanes.records[lane, row, lanes.slots * (lanes.slots + 2) + SCALE])


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
    lanes.network_input[lane * lanes.copies : (lane + 1) * lanes.copies] = sample


def _next_rows(lanes: StepLanes) -> Tensor:
    return lanes.row if lanes.cursor is None else lanes.cursor


def _step_op(
    state: Tensor,
    output: Tensor,
    records: Tensor,
    row: Tensor,
    guidance: Tensor,
    network_input: Tensor,
    extra: Tensor | None,
    mask: Tensor | None,
    clean: Tensor | None,
    noise: Tensor | None,
    cursor: Tensor | None,
    langevin: bool,
) -> None:
    """The operation ``intarsia::step``: up to two launches."""
    shared = len(output) > len(network_input)
    lanes = StepLanes(state, records, row, guidance, network_input, extra, mask, clean, noise, cursor, langevin, shared)
    chosen = state.new_empty(state.shape[0], 3)
    if langevin:
        given = (state, output, records, row, guidance, chosen)
        sizes = {"SLOTS": lanes.slots, "HALVES": lanes.halves, "BLOCK": _LANGEVIN_BLOCK}
        shape = (state[0, 0].numel(), state.shape[2], records.shape[1])
        _langevin_rows.launch((state.shape[0],), *given, *shape, **sizes, enable_fp_fusion=False)
    _launch(lanes, output, chosen, advance=True)


def _step_fake(*_: object) -> None:
    """Everything it writes is there already."""


torch.library.define(
    "intarsia::step",
    "(Tensor(a!) state, Tensor output, Tensor records, Tensor row, Tensor guidance, Tensor(b!) network_input, "
    "Tensor? extra, Tensor? mask, Tensor? clean, Tensor? noise, Tensor(c!)? cursor, bool langevin) -> ()",
)
torch.library.impl("intarsia::step", ("cpu", "cuda"), _step_op)  # a CPU has it in Triton's interpreter
torch.library.register_fake("intarsia::step", _step_fake)


def _launch(lanes: StepLanes, output: Tensor, chosen: Tensor, *, advance: bool) -> None:
    count, kept, channels, height, width = lanes.state.shape
    inputs, places = lanes.network_input.shape[1], height * width
    blend = advance and lanes.extra is None
    # what a mode does not read needs an address all the same
    known = [each if blend and each is not None else lanes.state for each in (lanes.mask, lanes.clean, lanes.noise)]
    extra = lanes.state if lanes.extra is None else lanes.extra
    rows = lanes.row if advance else _next_rows(lanes)
    cursor = lanes.row if lanes.cursor is None else lanes.cursor
    given = (lanes.state, output, lanes.records, rows, cursor, lanes.guidance, chosen, *known, extra)
    shape = (places, channels, inputs, lanes.records.shape[1])
    sizes = {"SLOTS": lanes.slots, "COLUMNS": power_of_two(kept), "BLOCK": _BLOCK}
    sizes |= {"HALVES": lanes.halves, "COPIES": lanes.copies}
    modes = {"BLEND": blend, "ADVANCE": advance, "MOVE": advance and lanes.cursor is not None}
    grid = (ceil_div(inputs * places, _BLOCK), count)
    # multiplications and additions rounded one by one, as the reference does
    _step.launch(grid, *given, lanes.network_input, *shape, **sizes, **modes, enable_fp_fusion=False)


def _guided(pixel: tl.tensor, inside: tl.tensor, half: tl.tensor, scale: tl.tensor, HALVES: tl.constexpr) -> tl.tensor:
    """The guided output at ``pixel``, where the unconditional half has it; the other is ``half`` elements on.

    ``scale`` is 0 in an unguided row, of which the negative prompt's output alone is taken.
    """
    guided = tl.load(pixel, mask=inside, other=0.0).to(tl.float32)
    if HALVES == 2:
        conditional = tl.load(pixel + half, mask=inside, other=0.0).to(tl.float32)
        guided = guided + scale * (conditional - guided)
    return guided


@partial(Kernel, general=("count", "length"), parts=(_guided,))
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
) -> None:
    """One program: the three coefficients of one lane's corrector row; ``chosen`` is ``[L, 3]``."""
    lane = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + lane)
    record = records + (lane * length + tl.minimum(tl.maximum(row, 0), length - 1)) * (SLOTS * (SLOTS + 2) + 6)
    snr = tl.load(record + SLOTS * (SLOTS + 2) + 4)
    if (row >= 0) & (row < length) & (snr > 0):
        places = count // channels
        sample_share = tl.load(record).to(tl.float64)
        output_share = tl.load(record + SLOTS).to(tl.float64)
        noise_share = tl.load(record + SLOTS + 1).to(tl.float64)
        scale = tl.load(guidance + lane) * tl.load(record + SLOTS * (SLOTS + 2) + 5)
        drift = tl.zeros([BLOCK], tl.float64)
        spread = tl.zeros([BLOCK], tl.float64)
        buffer = state + lane * (SLOTS + 2) * count
        first = 0
        while first < count:
            place = first + tl.arange(0, BLOCK)
            inside = place < count
            pixel = output + lane * HALVES * count + (place % places) * channels + place // places
            guided = _guided(pixel, inside, count, scale, HALVES).to(tl.float64)
            sample = tl.load(buffer + place, mask=inside, other=0.0).to(tl.float64)
            noise = tl.load(buffer + (SLOTS + 1) * count + place, mask=inside, other=0.0).to(tl.float64)
            move = (sample_share - 1) * sample + output_share * guided
            drift += move * move
            spread += noise * noise
            first += BLOCK
        length_of_drift = tl.sqrt(tl.sum(drift, axis=0))
        push = snr.to(tl.float64) * tl.abs(noise_share) * tl.sqrt(tl.sum(spread, axis=0))
        ratio = tl.where(length_of_drift > 0, push / tl.maximum(length_of_drift, 1e-300), 0.0)
        tl.store(chosen + lane * 3, 1 + ratio * ratio * (sample_share - 1))
        tl.store(chosen + lane * 3 + 1, ratio * ratio * output_share)
        tl.store(chosen + lane * 3 + 2, ratio * noise_share)


def _apply_row(
    buffer: tl.tensor,
    record: tl.tensor,
    chosen: tl.tensor,
    guided: tl.tensor,
    inside: tl.tensor,
    count: tl.tensor,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> tl.tensor:
    """New state slots of some elements by the record's matrix, the first of its rows by ``chosen`` in a Langevin row.

    All but the new sample are stored, which is the result. ``buffer`` points to the elements in slot 0.
    """
    # everything that the matrix maps, read before any of it is overwritten
    column = tl.arange(0, COLUMNS)
    held = (column < SLOTS + 2) & (column != SLOTS)
    before = tl.load(buffer[None, :] + column[:, None] * count, mask=held[:, None] & inside[None, :], other=0.0)
    before = tl.where((column == SLOTS)[:, None], guided[None, :], before)
    tl.store(buffer + SLOTS * count, guided, mask=inside)
    sample = guided
    for slot in tl.static_range(SLOTS - 1, -1, -1):
        line = tl.load(record + slot * (SLOTS + 2) + column, mask=column < SLOTS + 2, other=0.0)
        if slot == 0:
            used = (column == 0) | (column == SLOTS) | (column == SLOTS + 1)
            entry = tl.where(column == 0, 0, column - SLOTS + 1)
            snr = tl.load(record + SLOTS * (SLOTS + 2) + 4) + tl.zeros([COLUMNS], tl.float32)
            corrected = used & (snr > 0)
            line = tl.where(corrected, tl.load(chosen + entry, mask=corrected, other=0.0), line)
        sample = tl.sum(line[:, None] * before, axis=0)
        if slot > 0:
            tl.store(buffer + slot * count, sample, mask=inside)
    return sample


@partial(Kernel, general=("places", "length"), parts=(_guided, _apply_row))
def _step(
    state: tl.tensor,
    output: tl.tensor,
    records: tl.tensor,
    rows: tl.tensor,
    cursor: tl.tensor,
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
    COPIES: tl.constexpr,
    BLEND: tl.constexpr,
    ADVANCE: tl.constexpr,
    MOVE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` elements of one lane's network input, in the order of the state (channels first)."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.load(rows + lane)
    if (row >= 0) & (row < length):
        element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        place, channel = element % places, element // places
        count = channels * places
        latent = element < count
        buffer = state + lane * (SLOTS + 2) * count + element
        record = records + (lane * length + row) * (SLOTS * (SLOTS + 2) + 6)
        extras = record + SLOTS * (SLOTS + 2)
        if ADVANCE:
            pixel = output + lane * HALVES * count + place * channels + channel
            weight = tl.load(guidance + lane) * tl.load(extras + 5)
            guided = _guided(pixel, latent, count, weight, HALVES)
            sample = _apply_row(buffer, record, chosen + lane * 3, guided, latent, count, SLOTS, COLUMNS)
            if BLEND:
                repaint = tl.load(mask + lane * places + place, mask=latent, other=1.0) > 0.5
                picture = tl.load(clean + lane * count + element, mask=latent, other=0.0)
                unit = tl.load(noise + lane * count + element, mask=latent, other=0.0)
                known = tl.load(extras + 2) * picture + tl.load(extras + 3) * unit
                sample = tl.where(repaint, sample, known)
            tl.store(buffer, sample, mask=latent)
            scale = tl.load(extras + 1)
            if MOVE:
                tl.store(cursor + lane, row + 1, mask=tl.program_id(0) == 0)
        else:
            sample = tl.load(buffer, mask=latent, other=0.0)
            scale = tl.load(extras)
        kind = network_input.dtype.element_ty
        value = (sample * scale).to(kind)
        beyond = (element >= count) & (element < inputs * places)
        rest = tl.load(extra + lane * (inputs - channels) * places + element - count, mask=beyond, other=0.0).to(kind)
        value = tl.where(latent, value, rest)
        target = network_input + lane * COPIES * inputs * places + place * inputs + channel
        for copy in tl.static_range(COPIES):
            tl.store(target + copy * inputs * places, value, mask=element < inputs * places)
