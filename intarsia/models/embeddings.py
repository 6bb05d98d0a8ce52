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
    steps = torch.arange(count, dtype=torch.float32, device=values.device)
    log_ratio = -math.log(10_000.0) / (count - shift)
    frequencies = torch.exp(steps * log_ratio)
    angles = values.float()[:, None] * frequencies

    columns = [angles.cos(), angles.sin()] if cosine_first else [angles.sin(), angles.cos()]
    embedding = torch.cat(columns, dim=1)
    return F.pad(embedding, (0, width % 2))


class TimestepEmbedding(nn.Module):
    """Two linear layers with SiLU between: ``[N, inputs]`` → ``[N, width]``."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs]`` → ``[N, width]``."""
        hidden = F.silu(self.linear_1(x))
        out: Tensor = self.linear_2(hidden)
        return out
