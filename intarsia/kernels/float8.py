"""Matrices in e4m3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning") with a scale for each row.

A row x is held as ``round(x / s)`` with ``s = max|x| / 448``, so that its largest value is the format's. A weight
``[N, K]`` has a row for each output channel, tokens ``[.., K]`` one for each token; a product's result is scaled by
theirs multiplied. Layers that feed such a product write e4m3 themselves (:mod:`.layernorm`, :mod:`.geglu`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted, operation, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["FLOAT8", "Float8", "empty_float8", "quantize", "quantize_reference", "scaled_product", "scaled_reference"]

FLOAT8 = torch.float8_e4m3fn

# The largest number in e4m3, and the least maximum that a row is scaled by: a row of zeros stays one. Half precision
# has nothing between that and zero. Kernels have both as literals, as Triton takes no globals.
_LARGEST, _LEAST = 448.0, 1e-12
# As in layernorm.py.
_TILE, _WIDEST = 4096, 16384


class Float8(NamedTuple):
    """Rows of e4m3 and what each is multiplied by.

    Attributes:
        values: ``[.., K]`` float8_e4m3fn, contiguous.
        scale: ``[.., 1]`` float32, contiguous.
    """

    values: Tensor
    scale: Tensor


def quantize_reference(x: Tensor) -> Float8:
    """In float32, rounded once; see :func:`quantize`."""
    wide = x.float()
    most = wide.abs().amax(-1, keepdim=True).clamp(min=_LEAST)
    return Float8((wide * (_LARGEST / most)).to(FLOAT8), most / _LARGEST)


def quantize(x: Tensor, *, fused: bool | None = None) -> Float8:
    """Rows in e4m3. What is not finite stays so: NaN alone, infinity with its whole row.

    Args:
        x: ``[.., K]`` float16, bfloat16 or float32, contiguous; K up to 16,384.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not fused_wanted(fused, x):
        return quantize_reference(x)
    check(x.is_contiguous(), "quantize", "x", "contiguous", f"of strides {x.stride()}")
    check(x.shape[-1] <= _WIDEST, "quantize", "the last dimension of x", f"at most {_WIDEST}", x.shape[-1])
    return Float8(*_quantize(x))


def scaled_reference(x: Float8, weight: Float8, bias: Tensor | None = None) -> Tensor:
    """In float32; see :func:`scaled_product`."""
    found = (x.values.float() @ weight.values.float().T) * x.scale * weight.scale.T
    return found if bias is None else found + bias.float()


def scaled_product(x: Float8, weight: Float8, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``x · weightᵀ + bias`` by the tensor cores of a GPU; on a CPU the reference, rounded once.

    Sums are accumulated fast, that is with fewer bits than float32 has (``use_fast_accum`` of torch): the inputs' three
    bits of mantissa outweigh what that costs.

    Args:
        x: ``[.., K]``. weight: ``[N, K]``. N and K are multiples of 16, which ``torch._scaled_mm`` asks for.
        bias: ``[N]`` in ``dtype``.
        dtype: float16 or bfloat16 on a GPU; which of them torch can write is
            :func:`intarsia.backends.torch.precision.product_dtype`'s to find out.

    Returns:
        ``[.., N]``, contiguous.
    """
    if x.values.device.type == "cpu":
        return scaled_reference(x, weight, bias).to(dtype)
    found: Tensor = torch._scaled_mm(
        x.values.flatten(0, -2),
        weight.values.T,  # column-major, as it has to be
        scale_a=x.scale.flatten(0, -2),
        scale_b=weight.scale.T,
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=True,
    )
    return found.view(*x.values.shape[:-1], -1)


def empty_float8(like: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Values ``[.., width]`` and scales ``[.., 1]`` for the rows of ``like``, with nothing in them."""
    rows = like.shape[:-1]
    return like.new_empty((*rows, width), dtype=FLOAT8), like.new_empty((*rows, 1), dtype=torch.float32)


def _shape(x: Tensor) -> tuple[Tensor, Tensor]:
    return empty_float8(x, x.shape[-1])


@operation("(Tensor x) -> (Tensor, Tensor)", _shape)
def _quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    values, scale = _shape(x)
    if x.numel():
        width = x.shape[-1]
        columns, rows = power_of_two(width), x.numel() // width
        block = max(1, _TILE // columns)
        sizes = {"ROWS": block, "COLUMNS": columns}
        _shrink.launch((ceil_div(rows, block),), x, values, scale, rows, width, **sizes, num_warps=_warps(columns))
    return values, scale


def _warps(columns: int) -> int:
    return 8 if columns > _TILE else 4


@partial(Kernel, general=("rows",))
def _shrink(
    x: tl.tensor,
    values: tl.tensor,
    scale: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program: ``ROWS`` whole rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < width)
    value = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    most = tl.maximum(tl.max(tl.abs(value), axis=1), 1e-12)[:, None]
    tl.store(scale + row, most / 448.0, mask=row < rows)
    tl.store(values + row * width + column, value * (448.0 / most), mask=inside)
