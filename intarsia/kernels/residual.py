"""The end of a residual block: both branches and the biases of the convolutions before them, in one pass.

torch adds the bias of a convolution on CUDA in a pass of its own over the result; here it rides along.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted, operation

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["residual", "residual_reference"]

_BLOCK = 1024


def residual_reference(h: Tensor, x: Tensor, bias: Tensor, other: Tensor | None = None) -> Tensor:
    """In float32, rounded once; see :func:`residual`."""
    both = bias.float() if other is None else bias.float() + other.float()
    return (h.float() + x.float() + both[:, None, None]).to(h.dtype)


def residual(h: Tensor, x: Tensor, bias: Tensor, other: Tensor | None = None, *, fused: bool | None = None) -> Tensor:
    """``h + x``, and to every place the same one or two vectors.

    Args:
        h, x: ``[B, C, H, W]`` of one float dtype in channels_last memory.
        bias, other: ``[C]``, any float dtype, contiguous.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Returns:
        Shape and dtype of ``h``, channels_last.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not fused_wanted(fused, h, x, bias, other):
        return residual_reference(h, x, bias, other)
    for name, tensor in (("h", h), ("x", x)):
        fits = tensor.shape == h.shape and tensor.dtype == h.dtype and tensor.ndim == 4
        fits = fits and tensor.is_contiguous(memory_format=torch.channels_last)
        found = f"{tensor.dtype} of shape {tuple(tensor.shape)} and strides {tensor.stride()}"
        check(fits, "residual", name, f"{h.dtype} of shape {tuple(h.shape)} in channels_last memory", found)
    for name, vector in (("bias", bias), ("other", other)):
        fits = vector is None or (vector.shape == h.shape[1:2] and vector.is_contiguous())
        check(fits, "residual", name, f"contiguous of shape ({h.shape[1]},)", vector is not None and vector.shape)
    made: Tensor = _residual(h, x, bias, other)
    return made


def _alike(h: Tensor, *_: object) -> Tensor:
    return torch.empty_like(h, memory_format=torch.channels_last)


@operation("(Tensor h, Tensor x, Tensor bias, Tensor? other) -> Tensor", _alike)
def _residual(h: Tensor, x: Tensor, bias: Tensor, other: Tensor | None) -> Tensor:
    out = _alike(h)
    if out.numel():
        given = (h, x, bias, bias if other is None else other, out, out.numel(), h.shape[1], int(other is not None))
        _add.launch((ceil_div(out.numel(), _BLOCK),), *given, BLOCK=_BLOCK)
    return out


@partial(Kernel, general=("both",))
def _add(
    h: tl.tensor,
    x: tl.tensor,
    bias: tl.tensor,
    other: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    channels: tl.tensor,
    both: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` elements, channels fastest. ``both`` is 1 where ``other`` counts, else 0."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    element = first + tl.arange(0, BLOCK)
    inside = element < count
    # a 64-bit remainder for each element would take longer than reading it
    channel = ((first % channels).to(tl.int32) + tl.arange(0, BLOCK)) % channels
    value = tl.load(h + element, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(x + element, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    shift += tl.load(other + channel, mask=inside & (both != 0), other=0.0).to(tl.float32)
    tl.store(out + element, value + shift, mask=inside)
