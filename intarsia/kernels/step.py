"""The plain reference of a step: guidance, solver and known region of one lane's table row; then of all lanes.

A lane has one buffer ``[S + 2, C, h, w]``: its ``S`` state slots, then the guided network output, then the row's fresh
noise. A row's matrix ``[S, S + 2]`` maps all of it to the new slots in one product. :mod:`intarsia.kernels.fused_step`
is the same in one launch for all lanes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.kernels.step_lanes import StepLanes
from intarsia.schedulers.packing import Field

__all__ = ["advance_reference", "apply_row", "first_input_reference", "guide", "keep_known", "langevin"]

LEAST_DRIFT = 1e-300
"""What a ratio of norms is divided by at least, in float64; where the drift is zero the ratio is not used."""


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, equation 6, in Stable Diffusion's parametrisation).

    Args:
        unconditional, conditional: network outputs of equal shape.
        scale: 1 gives the conditional output.
    """
    return unconditional + scale * (conditional - unconditional)


def apply_row(buffer: Tensor, matrix: Tensor) -> None:
    """New state slots = ``matrix`` · everything in the buffer; in place.

    Args:
        buffer: float32 ``[S + 2, C, h, w]``.
        matrix: float32 ``[S, S + 2]``, one row of a table.
    """
    slots, buffers = matrix.shape
    flat = buffer.view(buffers, -1)
    flat[:slots] = matrix @ flat


def langevin(buffer: Tensor, matrix: Tensor, snr: float) -> Tensor:
    """The matrix of a row that takes its step size from norms, without leaving the device.

    Song et al. 2021 ("Score-Based Generative Modeling through SDEs"), algorithm 4 (corrector, variance
    exploding); the convention is that of :func:`intarsia.schedulers.tables.langevin_step`: a ratio of 1 is the row
    as it stands, norms are over one image, and a drift that vanishes takes no step.

    Args:
        buffer: ``[3, C, h, w]``: sample, guided output, fresh noise.
        matrix: ``[1, 3]``.
        snr: target ratio of the norms of drift and noise.
    """
    sample, output, noise = buffer.double()
    sample_share, output_share, noise_share = matrix.double()[0]

    drift = (sample_share - 1) * sample + output_share * output
    drift_norm = torch.linalg.vector_norm(drift)
    noise_norm = torch.linalg.vector_norm(noise)
    target_norm = snr * noise_share.abs() * noise_norm

    ratio = target_norm / drift_norm.clamp_min(LEAST_DRIFT)
    ratio = torch.where(drift_norm > 0, ratio, torch.zeros_like(ratio))
    row = torch.stack(
        [
            1 + ratio**2 * (sample_share - 1),
            ratio**2 * output_share,
            ratio * noise_share,
        ]
    )
    return row[None].to(matrix.dtype)


def keep_known(sample: Tensor, mask: Tensor, known: Tensor, level: float) -> None:
    """Outside the mask the sample is the known image at its noise level; in place.

    Args:
        sample: ``[C, h, w]``. known: ``[C, h, w]``.
        mask: ``[1, h, w]``, 1 where the network repaints, between 0 and 1 where it does so later.
        level: of the mask, above which it does so now.
    """
    is_repainted = mask > level
    sample.copy_(torch.where(is_repainted, sample, known))


def advance_reference(lanes: StepLanes, output: Tensor) -> None:
    """One lane after the other; see :func:`intarsia.kernels.fused_step.advance`."""
    outputs = output.float().view(-1, lanes.branches, *output.shape[1:])
    for lane, row in enumerate(lanes.row.tolist()):
        if not 0 <= row < lanes.records.shape[1]:
            continue
        _advance_lane(lanes, lane, row, outputs[lane])
        if lanes.cursor is not None:
            lanes.cursor[lane] = row + 1


def first_input_reference(lanes: StepLanes) -> None:
    """One lane after the other; see :func:`intarsia.kernels.fused_step.first_input`."""
    for lane, row in enumerate(lanes.next_row.tolist()):
        if 0 <= row < lanes.records.shape[1]:
            _, fields = _matrix_and_fields(lanes, lane, row)
            _write_network_input(lanes, lane, fields[Field.INPUT_SCALE])


def _advance_lane(lanes: StepLanes, lane: int, row: int, branches: Tensor) -> None:
    buffer = lanes.state[lane]
    matrix, fields = _matrix_and_fields(lanes, lane, row)

    if lanes.branches == 2:
        scale = float(lanes.guidance[lane] * fields[Field.GUIDED])
        buffer[-2] = guide(branches[0], branches[1], scale)
    else:
        buffer[-2] = branches[0]

    snr = float(fields[Field.LANGEVIN_SNR])
    if snr:
        matrix = _langevin_matrix(buffer, matrix, snr)
    apply_row(buffer, matrix)

    if lanes.keeps_known:
        _keep_lane_known(lanes, lane, fields)
    _write_network_input(lanes, lane, fields[Field.NEXT_INPUT_SCALE])


def _keep_lane_known(lanes: StepLanes, lane: int, fields: Tensor) -> None:
    if lanes.mask is None or lanes.image_latents is None or lanes.noise is None:
        raise ValueError("lanes that keep a known region have mask, image_latents and noise")

    sample = lanes.state[lane, 0]
    image = fields[Field.KNOWN_IMAGE] * lanes.image_latents[lane]
    noise = fields[Field.KNOWN_NOISE] * lanes.noise[lane]
    keep_known(sample, lanes.mask[lane], image + noise, float(fields[Field.REPAINT_LEVEL]))


def _matrix_and_fields(lanes: StepLanes, lane: int, row: int) -> tuple[Tensor, Tensor]:
    """``[S, S + 2]`` and ``[len(Field)]`` of a lane's row."""
    slots = lanes.slots
    record = lanes.records[lane, row]
    matrix, fields = record.tensor_split([slots * (slots + 2)])
    return matrix.view(slots, -1), fields


def _langevin_matrix(buffer: Tensor, matrix: Tensor, snr: float) -> Tensor:
    """The row's matrix with the step size it chooses; such a table has one slot, the lane perhaps more."""
    slots = matrix.shape[0]
    used = [0, slots, slots + 1]
    row = langevin(buffer[used], matrix[:1, used], snr)
    chosen = matrix.clone()
    chosen[:1, used] = row
    return chosen


def _write_network_input(lanes: StepLanes, lane: int, scale: Tensor) -> None:
    scaled = lanes.state[lane, 0] * scale
    sample = scaled.to(lanes.network_input.dtype)
    if lanes.inpaint_latents is not None:
        sample = torch.cat([sample, lanes.inpaint_latents[lane]])

    first = lane * lanes.copies
    lanes.network_input[first : first + lanes.copies] = sample
