"""Additions of LoRAs computed by torch, on a network's device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from intarsia.models.lora import Additions, tensor_name

__all__ = ["TorchArithmetic", "folding"]


class TorchArithmetic:
    """:class:`.lora_arithmetic.Arithmetic` on one device."""

    EPS = torch.finfo(torch.float32).eps

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def float32(self, factor: Tensor, *, copy: bool = False) -> Tensor:
        return factor.to(device=self._device, dtype=torch.float32, copy=copy)

    def zeros(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(tuple(shape), device=self._device)

    def einsum(self, equation: str, *operands: Tensor) -> Tensor:
        return torch.einsum(equation, *operands)

    def kron(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.kron(one, other)

    def norm(self, values: Tensor, axes: tuple[int, ...]) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(values, dim=axes, keepdim=True)
        return lengths


def folding(
    additions: Additions, network: str, device: torch.device, dtype: torch.dtype
) -> Callable[[str, Tensor], Tensor]:
    """A function that adds everything to one stored tensor of a network, given its name.

    Args:
        device: tensors that change go there as they are stored, and are computed there.
        dtype: what the sum is stored as. WeightsError where it cannot hold it.
    """
    arithmetic = TorchArithmetic(device)
    changing = additions.tensors.get(network, frozenset())

    def fold(name: str, tensor: Tensor) -> Tensor:
        wanted = tensor_name(name)
        if wanted not in changing:
            return tensor
        total: Tensor = additions.total(network, wanted, tensor.to(device), arithmetic)
        if total.device.type != "meta" and total.numel():
            least, most = (float(each) for each in torch.aminmax(total))
            stored_as = str(dtype).removeprefix("torch.")
            additions.check(f"{network}.{wanted}", (least, most), torch.finfo(dtype).max, stored_as)
        return total

    return fold
