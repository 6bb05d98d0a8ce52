"""LayerNorm over the last dimension, each row in registers: read once, written once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from inlay.kernels.launch import Kernel, ceil_div, check, fused_wanted, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["layer_norm", "layer_norm_reference"]

# Elements of one program's tile: 32 registers a thread with four warps.
_TILE = 4096
_WIDEST = 16384


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """In float32, rounded once; see :func:`layer_norm`."""
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, fused: bool | None = None) -> Tensor:
    """Layer normalisation (Ba et al. 2016) with mean and variance accumulated in float32.

    Args:
        x: ``[.., C]`` float16, bfloat16 or float32, contiguous; C up to 16,384.
        weight, bias: ``[C]``, any float dtype, contiguous.
        fused: None takes the kernel on CUDA and the reference elsewhere.

    Returns:
        Shape and dtype of ``x``, contiguous.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not fused_wanted(fused, x, weight, bias):
        return layer_norm_reference(x, weight, bias, eps)
    width = x.shape[-1]
    check(x.is_contiguous(), "layer_norm", "x", "contiguous", f"of strides {x.stride()}")
    check(width <= _WIDEST, "layer_norm", "the last dimension of x", f"at most {_WIDEST}", width)
    for name, tensor in (("weight", weight), ("bias", bias)):
        fits = tensor.shape == (width,) and tensor.is_contiguous()
        check(fits, "layer_norm", name, f"contiguous of shape ({width},)", tuple(tensor.shape))
    out = x.new_empty(x.shape)
    if out.numel():
        columns = power_of_two(width)
        block = max(1, _TILE // columns)
        rows = x.numel() // width
        sizes = {"ROWS": block, "COLUMNS": columns, "num_warps": 8 if columns > _TILE else 4}
        _normalise.launch((ceil_div(rows, block),), x, weight, bias, out, rows, width, eps, **sizes)
    return out


@Kernel
def _normalise(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program: ``ROWS`` whole rows. The mean first, then squares about it: no cancellation."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < width)
    place = row * width + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, axis=1) / width
    centred = tl.where(inside, value - mean[:, None], 0.0)
    spread = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / width + eps)
    gain = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(out + place, centred * spread[:, None] * gain + shift, mask=inside)
