"""Norm layers fused with the addition before and the activation after them, so that one kernel does all of it.

Each has two implementations with the same result: torch's own functions, and a kernel of :mod:`intarsia.kernels`.
``fused`` selects one: None goes by the device (kernels on CUDA), and :func:`use_kernels` sets it for a whole network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.kernels.float8 import Float8, quantize, quantize_reference, scaled_product
from intarsia.kernels.geglu import geglu, geglu_float8
from intarsia.kernels.group_norm import Norm, group_norm
from intarsia.kernels.launch import runs_fused
from intarsia.kernels.layer_norm import add_layer_norm, layer_norm, layer_norm_float8
from intarsia.models.convolutions import PaddedConvolution, UnfoldedConvolution

__all__ = ["Float8Linear", "GatedProjection", "GroupNorm", "LayerNorm", "convolve", "packed", "use_kernels"]


class GroupNorm(nn.Module):
    """Group normalization (Wu & He 2018), with what is added before it and the SiLU behind it."""

    fused: bool | None = None

    def __init__(self, groups: int, channels: int, *, eps: float, silu: bool = False) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.silu = silu
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` → the same shape.

        Args:
            add: ``[B, C]``, added at every position of ``x``, which may then be overwritten.
        """
        if runs_fused(self.fused, x, self.weight, add):
            norm = Norm(groups=self.groups, weight=self.weight, bias=self.bias, eps=self.eps, silu=self.silu)
            return group_norm(packed(x), norm, add, fused=True)

        if add is not None:
            x += add[:, :, None, None]
        normed = F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        if self.silu:
            normed = F.silu(normed, inplace=True)
        return normed


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al. 2016) over channels, with the residual addition before it."""

    fused: bool | None = None

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Tensor, delta: Tensor | None = None, *, float8: bool = False
    ) -> tuple[Tensor, Tensor | Float8]:
        """Tokens ``[B, T, C]`` → their sum with ``delta``, which may be overwritten, and its normalization.

        ``float8``: the normalization is for a product in e4m3 (:class:`Float8Linear`).
        """
        fused = runs_fused(self.fused, x, self.weight, delta)
        if float8:
            return layer_norm_float8(x, delta, self.weight, self.bias, self.eps, fused=fused)
        if fused and delta is not None:
            return add_layer_norm(x, delta, self.weight, self.bias, self.eps, fused=True)
        if fused:
            return x, layer_norm(x, self.weight, self.bias, self.eps, fused=True)

        if delta is not None:
            x = delta.add_(x)
        return x, F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class GatedProjection(nn.Module):
    """Linear layer gated by GELU (Shazeer 2020, GEGLU): ``[.., C]`` → ``[.., width]``.

    If its own product is in e4m3, the result is the input of another such product.
    """

    fused: bool | None = None

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * width)

    def forward(self, x: Tensor | Float8) -> Tensor | Float8:
        """``[.., C]`` → ``[.., width]``."""
        projection: nn.Module = self.proj
        if isinstance(projection, Float8Linear):
            # in the dtype that the product was written in, as the kernel reads any
            return geglu_float8(projection.product(x), fused=self.fused)

        value_and_gate: Tensor = self.proj(x)
        if runs_fused(self.fused, value_and_gate, self.proj.weight):
            return geglu(value_and_gate, fused=True)
        value, gate = value_and_gate.chunk(2, dim=-1)
        return value * F.gelu(gate)


class Float8Linear(nn.Module):
    """Linear layer in e4m3: the weight has a scale for each output channel, the input one for each row.

    Attributes:
        weight: float8_e4m3fn ``[N, K]``.
        scale: float32 ``[N, 1]``.
        bias: ``[N]`` or None.
        dtype: of the result.

    Args:
        weight: ``[N, K]`` of the layer in ``dtype``; N and K are multiples of 16.
        written: dtype that the device's product writes; another than ``dtype`` is cast.
    """

    fused: bool | None = None

    def __init__(self, weight: Tensor, bias: Tensor | None, written: torch.dtype) -> None:
        super().__init__()
        rows = quantize_reference(weight.detach())
        self.weight = nn.Parameter(rows.values, requires_grad=False)
        self.scale = nn.Parameter(rows.scale, requires_grad=False)
        self.bias: nn.Parameter | None = None
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().to(written), requires_grad=False)
        self.dtype = weight.dtype
        self._written = written

    def forward(self, x: Tensor | Float8) -> Tensor:
        """``[.., K]`` → ``[.., N]``. Inputs that no kernel before has quantized (merged tokens) are quantized here."""
        return self.product(x).to(self.dtype)

    def product(self, x: Tensor | Float8) -> Tensor:
        """The same before the cast."""
        rows = x if isinstance(x, Float8) else quantize(x.contiguous(), fused=self.fused)
        weight = Float8(self.weight, self.scale)
        return scaled_product(rows, weight, self.bias, self._written)


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The layer's convolution without its bias, which on CUDA is a pass of its own over the result."""
    if isinstance(layer, PaddedConvolution | UnfoldedConvolution):
        return layer.without_bias(x)
    return F.conv2d(x, layer.weight, None, layer.stride, layer.padding)


def packed(x: Tensor) -> Tensor:
    """``x`` in channels_last memory, where a network's feature maps are already."""
    return x.contiguous(memory_format=torch.channels_last)


def use_kernels(network: nn.Module, fused: bool | None) -> None:
    """Set for all layers of a network whether they run fused kernels; None goes by the device of their inputs."""
    for module in network.modules():
        if hasattr(module, "fused"):
            module.fused = fused  # type: ignore[assignment]
