"""One table row for one lane: guidance, solver, known region. The plain reference.

A lane's work lies in one buffer ``[S + 2, C, h, w]``: its ``S`` state slots, then the guided network output,
then the row's fresh noise. A row's matrix ``[S, S + 2]`` maps all of it to the new slots in one product.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["apply_row", "guide", "keep_known", "langevin"]


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
    slots = matrix.shape[0]
    flat = buffer.view(buffer.shape[0], -1)
    flat[:slots] = matrix @ flat


def langevin(buffer: Tensor, matrix: Tensor, snr: float) -> Tensor:
    """The matrix of a row that takes its step size from norms, without leaving the device.

    Song et al. 2021 ("Score-Based Generative Modeling through SDEs"), algorithm 4 (corrector, variance
    exploding); the convention is that of :func:`intarsia.schedulers.tables.langevin_step`: a ratio of 1 is the row
    as it stands, norms are over one picture, and a drift that vanishes takes no step.

    Args:
        buffer: ``[3, C, h, w]``: sample, guided output, fresh noise.
        matrix: ``[1, 3]``.
        snr: target ratio of the norms of drift and noise.
    """
    sample, output, noise = matrix.double()[0].unbind()
    drift = torch.linalg.vector_norm((sample - 1) * buffer[0].double() + output * buffer[1].double())
    push = snr * noise.abs() * torch.linalg.vector_norm(buffer[2].double())
    ratio = torch.where(drift > 0, push / drift.clamp_min(1e-300), torch.zeros_like(drift))
    row = torch.stack([1 + ratio**2 * (sample - 1), ratio**2 * output, ratio * noise])
    return row[None].to(matrix.dtype)


def keep_known(sample: Tensor, mask: Tensor, known: Tensor) -> None:
    """Outside the mask the sample is the known picture at its level; in place.

    Args:
        sample: ``[C, h, w]``. mask: ``[1, h, w]``, 1 where the network repaints. known: ``[C, h, w]``.
    """
    sample.copy_(torch.where(mask > 0.5, sample, known))
