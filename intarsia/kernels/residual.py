"""The end of a residual block: both branches and the biases of the convolutions before them, in one pass.

torch adds the bias of a convolution on CUDA in a pass of its own over the result; here that pass is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.kernels.launch import ceil_div, check, described, launching, operation, runs_fused

__all__ = ["residual", "residual_reference"]

_BLOCK = 1024


def residual_reference(h: Tensor, x: Tensor, bias: Tensor, other: Tensor | None = None) -> Tensor:
    """In float32, rounded once; see :func:`residual`."""
    shift = bias.float()
    if other is not None:
        shift = shift + other.float()
    total = h.float() + x.float() + shift[:, None, None]
    return total.to(h.dtype)


def residual(h: Tensor, x: Tensor, bias: Tensor, other: Tensor | None = None, *, fused: bool | None = None) -> Tensor:
    """``h + x``, and one or two biases per channel.

    Args:
        h, x: ``[B, C, H, W]`` of one float dtype in channels_last memory.
        bias, other: ``[C]``, any float dtype, contiguous.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Returns:
        Shape and dtype of ``h``, channels_last.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not runs_fused(fused, h, x, bias, other):
        return residual_reference(h, x, bias, other)

    _check_map("h", h, h)
    _check_map("x", x, h)
    _check_bias("bias", bias, h.shape[1])
    if other is not None:
        _check_bias("other", other, h.shape[1])
    total: Tensor = _residual(h, x, bias, other)
    return total


def _check_map(name: str, feature_map: Tensor, like: Tensor) -> None:
    is_channels_last = feature_map.ndim == 4 and feature_map.is_contiguous(memory_format=torch.channels_last)
    fits = is_channels_last and feature_map.shape == like.shape and feature_map.dtype == like.dtype
    allowed = f"{described(like)} in channels_last memory"
    actual = f"{described(feature_map)} and strides {feature_map.stride()}"
    check(fits, f"residual: {name}", allowed, actual)


def _check_bias(name: str, bias: Tensor, channels: int) -> None:
    fits = bias.shape == (channels,) and bias.is_contiguous()
    check(fits, f"residual: {name}", f"contiguous of shape ({channels},)", bias.shape)


def _empty_like(h: Tensor, *_: object) -> Tensor:
    return torch.empty_like(h, memory_format=torch.channels_last)


@operation("(Tensor h, Tensor x, Tensor bias, Tensor? other) -> Tensor", _empty_like)
def _residual(h: Tensor, x: Tensor, bias: Tensor, other: Tensor | None) -> Tensor:
    out = _empty_like(h)
    if not out.numel():
        return out

    grid = (ceil_div(out.numel(), _BLOCK),)
    with launching("residual", h):
        from intarsia.kernels.residual_triton import residual_kernel

        residual_kernel[grid](
            h=h,
            x=x,
            bias=bias,
            other=bias if other is None else other,
            out=out,
            count=out.numel(),
            channels=h.shape[1],
            has_other=int(other is not None),
            BLOCK=_BLOCK,
        )
    return out
