"""Muon for matrices and convolutions, AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): the update is the momentum with all its singular
values brought to about one, by five Newton-Schulz iterations, so that directions in which a gradient is small but
steady are learned as fast as the large ones.
"""

from __future__ import annotations

from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, from the same source
ITERATIONS = 5
MOMENTUM = 0.95


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with singular values near one (0.7…1.2), same shape, float32."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def is_matrix(parameter: torch.Tensor) -> bool:
    """Whether Muon takes it: more than one dimension, and not a table of a token each."""
    return parameter.ndim > 1 and parameter.shape[0] <= 1024


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; updates have AdamW's usual size at the same rate.

    The factor 0.2·√max(rows, columns) is that of Liu et al. 2025 (arXiv:2502.16982, equation 4).
    """

    def __init__(self, parameters: list[torch.nn.Parameter], rate: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter; processes that train together share the work of it."""
        together = torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)
        for group in self.param_groups:
            parameters = group["params"]
            flat = parameters[0].new_zeros(sum(p.numel() for p in parameters))
            parts = flat.split([p.numel() for p in parameters])
            order = sorted(range(len(parameters)), key=lambda i: parameters[i].numel())  # neighbours cost the same
            for turn, i in enumerate(order):
                ahead = self._momentum(parameters[i])
                if turn % world == rank:
                    parts[i].copy_(orthogonal(ahead.reshape(ahead.shape[0], -1)).reshape(-1))
            if together:
                torch.distributed.all_reduce(flat)
            for parameter, part in zip(parameters, parts, strict=True):
                size = 0.2 * max(parameter.shape[0], parameter[0].numel()) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(part.view(parameter.shape), alpha=-group["lr"] * size)

    def _momentum(self, parameter: torch.Tensor) -> torch.Tensor:
        """Nesterov's look ahead, of the parameter's shape; moves the momentum."""
        momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(momentum, MOMENTUM)
