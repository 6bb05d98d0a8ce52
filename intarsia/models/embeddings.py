"""Timesteps and other scalars as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoid(values: Tensor, width: int, *, cosine_first: bool = True, shift: float = 0.0) -> Tensor:
    """Sinusoidal embedding of scalars (Vaswani et al. 2017, section 3.5, with base 10,000).

    Args:
        values: ``[N]``, timesteps (they may be fractional) or other scalars.
        width: columns of the result; an odd width ends in a column of zeros.
        cosine_first: cosines before sines, as Stable Diffusion was trained (``flip_sin_to_cos``).
        shift: subtracted from the number of frequencies in the exponent (``freq_shift``).

    Returns:
        ``[N, width]`` in float32, whatever the network computes in: half precision cannot tell timesteps apart.
    """
    count = width // 2
    exponents = torch.arange(count, dtype=torch.float32, device=values.device)
    frequencies = torch.exp(exponents * (-math.log(10_000.0) / (count - shift)))
    angles = values.float()[:, None] * frequencies

    columns = [angles.cos(), angles.sin()] if cosine_first else [angles.sin(), angles.cos()]
    return F.pad(torch.cat(columns, dim=1), (0, width % 2))


class TimestepEmbedding(nn.Module):
    """Two linear layers with SiLU between: ``[N, inputs]`` → ``[N, width]``."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs]`` → ``[N, width]``."""
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out
