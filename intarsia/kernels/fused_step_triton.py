"""The Triton kernels of :mod:`intarsia.kernels.fused_step`.

A record is a row's matrix ``[SLOTS, SLOTS + 2]`` and then its fields, as
:func:`intarsia.schedulers.packing.pack_rows` lays them out.
"""

from __future__ import annotations

import triton
import triton.language as tl

from intarsia.kernels.step import LEAST_DRIFT
from intarsia.schedulers.packing import Field

_INPUT_SCALE = tl.constexpr(int(Field.INPUT_SCALE))
_NEXT_INPUT_SCALE = tl.constexpr(int(Field.NEXT_INPUT_SCALE))
_KNOWN_IMAGE = tl.constexpr(int(Field.KNOWN_IMAGE))
_KNOWN_NOISE = tl.constexpr(int(Field.KNOWN_NOISE))
_REPAINT_LEVEL = tl.constexpr(int(Field.REPAINT_LEVEL))
_LANGEVIN_SNR = tl.constexpr(int(Field.LANGEVIN_SNR))
_GUIDED = tl.constexpr(int(Field.GUIDED))
_FIELDS = tl.constexpr(len(Field))

_LEAST_DRIFT = tl.constexpr(LEAST_DRIFT)


@triton.jit
def _guide(
    source: tl.tensor, inside: tl.tensor, branch_stride: tl.tensor, scale: tl.tensor, BRANCHES: tl.constexpr
) -> tl.tensor:
    """The guided output; ``source`` points into the unconditional branch, ``branch_stride`` before the other.

    ``scale`` is 0 in an unguided row, of which the negative prompt's output alone is taken.
    """
    guided = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    if BRANCHES == 2:
        conditional = tl.load(source + branch_stride, mask=inside, other=0.0).to(tl.float32)
        guided = guided + scale * (conditional - guided)
    return guided


@triton.jit(do_not_specialize=["count", "rows"])
def langevin_kernel(
    state: tl.tensor,
    output: tl.tensor,
    records: tl.tensor,
    row_numbers: tl.tensor,
    guidance: tl.tensor,
    langevin_row: tl.tensor,
    count: tl.tensor,
    channels: tl.tensor,
    rows: tl.tensor,
    SLOTS: tl.constexpr,
    BRANCHES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: the three coefficients of one lane's corrector row; ``langevin_row`` is ``[L, 3]``."""
    lane = tl.program_id(0).to(tl.int64)
    row = tl.load(row_numbers + lane)
    bounded_row = tl.minimum(tl.maximum(row, 0), rows - 1)
    record_size = SLOTS * (SLOTS + 2) + _FIELDS
    record = records + (lane * rows + bounded_row) * record_size
    fields = record + SLOTS * (SLOTS + 2)
    snr = tl.load(fields + _LANGEVIN_SNR)

    if (row >= 0) & (row < rows) & (snr > 0):
        pixels = count // channels
        sample_share = tl.load(record).to(tl.float64)
        output_share = tl.load(record + SLOTS).to(tl.float64)
        noise_share = tl.load(record + SLOTS + 1).to(tl.float64)
        scale = tl.load(guidance + lane) * tl.load(fields + _GUIDED)

        buffer = state + lane * (SLOTS + 2) * count
        noise_buffer = buffer + (SLOTS + 1) * count
        lane_output = output + lane * BRANCHES * count
        drift_squares = tl.zeros([BLOCK], tl.float64)
        noise_squares = tl.zeros([BLOCK], tl.float64)
        first = 0
        while first < count:
            element = first + tl.arange(0, BLOCK)
            inside = element < count
            source = lane_output + (element % pixels) * channels + element // pixels
            guided = _guide(source, inside, count, scale, BRANCHES).to(tl.float64)
            sample = tl.load(buffer + element, mask=inside, other=0.0).to(tl.float64)
            noise = tl.load(noise_buffer + element, mask=inside, other=0.0).to(tl.float64)

            drift = (sample_share - 1) * sample + output_share * guided
            drift_squares += drift * drift
            noise_squares += noise * noise
            first += BLOCK

        drift_norm = tl.sqrt(tl.sum(drift_squares, axis=0))
        noise_norm = tl.sqrt(tl.sum(noise_squares, axis=0))
        target_norm = snr.to(tl.float64) * tl.abs(noise_share) * noise_norm
        ratio = target_norm / tl.maximum(drift_norm, _LEAST_DRIFT)
        ratio = tl.where(drift_norm > 0, ratio, 0.0)

        result = langevin_row + lane * 3
        tl.store(result, 1 + ratio * ratio * (sample_share - 1))
        tl.store(result + 1, ratio * ratio * output_share)
        tl.store(result + 2, ratio * noise_share)


@triton.jit
def _apply_row(
    buffer: tl.tensor,
    record: tl.tensor,
    langevin_row: tl.tensor,
    guided: tl.tensor,
    inside: tl.tensor,
    count: tl.tensor,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> tl.tensor:
    """New state slots of some elements by the record's matrix; in a Langevin row its first line is ``langevin_row``.

    All but the new sample are stored, which is the result. ``buffer`` points to the elements in slot 0.
    """
    # everything that the matrix maps, read before any of it is overwritten
    column = tl.arange(0, COLUMNS)
    is_guided = column == SLOTS
    is_stored = (column < SLOTS + 2) & (column != SLOTS)
    source = buffer[None, :] + column[:, None] * count
    before = tl.load(source, mask=is_stored[:, None] & inside[None, :], other=0.0)
    before = tl.where(is_guided[:, None], guided[None, :], before)
    tl.store(buffer + SLOTS * count, guided, mask=inside)

    sample = guided
    for slot in tl.static_range(SLOTS - 1, -1, -1):
        line = tl.load(record + slot * (SLOTS + 2) + column, mask=column < SLOTS + 2, other=0.0)
        if slot == 0:
            is_used = (column == 0) | (column == SLOTS) | (column == SLOTS + 1)
            entry = tl.where(column == 0, 0, column - SLOTS + 1)
            snr = tl.load(record + SLOTS * (SLOTS + 2) + _LANGEVIN_SNR) + tl.zeros([COLUMNS], tl.float32)
            is_replaced = is_used & (snr > 0)
            replacement = tl.load(langevin_row + entry, mask=is_replaced, other=0.0)
            line = tl.where(is_replaced, replacement, line)

        sample = tl.sum(line[:, None] * before, axis=0)
        if slot > 0:
            tl.store(buffer + slot * count, sample, mask=inside)
    return sample


@triton.jit(do_not_specialize=["pixels", "rows"])
def step_kernel(
    state: tl.tensor,
    output: tl.tensor,
    records: tl.tensor,
    row_numbers: tl.tensor,
    cursor: tl.tensor,
    guidance: tl.tensor,
    langevin_row: tl.tensor,
    mask: tl.tensor,
    image_latents: tl.tensor,
    noise: tl.tensor,
    inpaint_latents: tl.tensor,
    network_input: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    input_channels: tl.tensor,
    rows: tl.tensor,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BRANCHES: tl.constexpr,
    COPIES: tl.constexpr,
    KEEPS_KNOWN: tl.constexpr,
    ADVANCES: tl.constexpr,
    MOVES_CURSOR: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` elements of one lane's network input, in the order of the state (channels first)."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.load(row_numbers + lane)
    if (row >= 0) & (row < rows):
        element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        pixel = element % pixels
        channel = element // pixels
        count = channels * pixels
        latent = element < count

        buffer = state + lane * (SLOTS + 2) * count + element
        record_size = SLOTS * (SLOTS + 2) + _FIELDS
        record = records + (lane * rows + row) * record_size
        fields = record + SLOTS * (SLOTS + 2)

        if ADVANCES:
            source = output + lane * BRANCHES * count + pixel * channels + channel
            scale = tl.load(guidance + lane) * tl.load(fields + _GUIDED)
            guided = _guide(source, latent, count, scale, BRANCHES)
            sample = _apply_row(buffer, record, langevin_row + lane * 3, guided, latent, count, SLOTS, COLUMNS)

            if KEEPS_KNOWN:
                level = tl.load(mask + lane * pixels + pixel, mask=latent, other=1.0)
                is_repainted = level > tl.load(fields + _REPAINT_LEVEL)
                image = tl.load(image_latents + lane * count + element, mask=latent, other=0.0)
                unit_noise = tl.load(noise + lane * count + element, mask=latent, other=0.0)
                image_level = tl.load(fields + _KNOWN_IMAGE)
                noise_level = tl.load(fields + _KNOWN_NOISE)
                known = image_level * image + noise_level * unit_noise
                sample = tl.where(is_repainted, sample, known)

            tl.store(buffer, sample, mask=latent)
            input_scale = tl.load(fields + _NEXT_INPUT_SCALE)
            if MOVES_CURSOR:
                tl.store(cursor + lane, row + 1, mask=tl.program_id(0) == 0)
        else:
            sample = tl.load(buffer, mask=latent, other=0.0)
            input_scale = tl.load(fields + _INPUT_SCALE)

        dtype = network_input.dtype.element_ty
        scaled = (sample * input_scale).to(dtype)
        beyond = (element >= count) & (element < input_channels * pixels)
        inpaint_source = inpaint_latents + lane * (input_channels - channels) * pixels + element - count
        inpaint = tl.load(inpaint_source, mask=beyond, other=0.0).to(dtype)
        value = tl.where(latent, scaled, inpaint)

        target = network_input + lane * COPIES * input_channels * pixels + pixel * input_channels + channel
        for copy in tl.static_range(COPIES):
            tl.store(target + copy * input_channels * pixels, value, mask=element < input_channels * pixels)
