"""Matrices in e4m3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning") with a scale for each row.

A row x is held as ``round(x / s)`` with ``s = max|x| / 448``, so that its largest value is the format's. A weight
``[N, K]`` has a row for each output channel, tokens ``[.., K]`` one for each token; a product's result is scaled by
theirs multiplied. Layers that feed such a product write e4m3 themselves (:mod:`.layer_norm`, :mod:`.geglu`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from intarsia.kernels.launch import ceil_div, check, launching, operation, power_of_two, runs_fused

__all__ = [
    "FLOAT8",
    "MAX_ROW_WIDTH",
    "Float8",
    "empty_float8",
    "quantize",
    "quantize_reference",
    "row_warps",
    "scaled_product",
    "scaled_reference",
]

FLOAT8 = torch.float8_e4m3fn

E4M3_MAX = 448.0
"""The largest number in e4m3."""

LEAST_ROW_MAX = 1e-12
"""The least maximum that a row is scaled by, so that a row of zeros stays one. Float16 has nothing between it and 0."""

MAX_ROW_WIDTH = 16384
"""A kernel holds a whole row in registers: 64 of a thread with eight warps."""

_TILE = 4096


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
    row_max = wide.abs().amax(-1, keepdim=True)
    row_max = row_max.clamp(min=LEAST_ROW_MAX)
    scaled = wide * (E4M3_MAX / row_max)
    return Float8(scaled.to(FLOAT8), row_max / E4M3_MAX)


def quantize(x: Tensor, *, fused: bool | None = None) -> Float8:
    """Rows in e4m3. What is not finite stays so: NaN alone, infinity with its whole row.

    Args:
        x: ``[.., K]`` float16, bfloat16 or float32, contiguous; K up to 16,384.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not runs_fused(fused, x):
        return quantize_reference(x)

    width = x.shape[-1]
    check(x.is_contiguous(), "quantize: x", "contiguous", f"of strides {x.stride()}")
    check(width <= MAX_ROW_WIDTH, "quantize: the last dimension of x", f"at most {MAX_ROW_WIDTH}", width)
    return Float8(*_quantize(x))


def scaled_reference(x: Float8, weight: Float8, bias: Tensor | None = None) -> Tensor:
    """In float32; see :func:`scaled_product`."""
    product = x.values.float() @ weight.values.float().T
    product = product * x.scale * weight.scale.T
    if bias is not None:
        product = product + bias.float()
    return product


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

    product: Tensor = torch._scaled_mm(
        x.values.flatten(0, -2),
        weight.values.T,  # column-major, as it has to be
        scale_a=x.scale.flatten(0, -2),
        scale_b=weight.scale.T,
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=True,
    )
    return product.view(*x.values.shape[:-1], -1)


def empty_float8(like: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Uninitialized values ``[.., width]`` and scales ``[.., 1]`` for the rows of ``like``."""
    rows = like.shape[:-1]
    values = like.new_empty((*rows, width), dtype=FLOAT8)
    scale = like.new_empty((*rows, 1), dtype=torch.float32)
    return values, scale


def row_warps(columns: int) -> int:
    """Warps of a program that holds a row of so many columns in its registers."""
    return 8 if columns > _TILE else 4


def _empty_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    return empty_float8(x, x.shape[-1])


@operation("(Tensor x) -> (Tensor, Tensor)", _empty_rows)
def _quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    values, scale = _empty_rows(x)
    if not x.numel():
        return values, scale

    width = x.shape[-1]
    columns = power_of_two(width)
    rows = x.numel() // width
    rows_at_once = max(1, _TILE // columns)
    grid = (ceil_div(rows, rows_at_once),)
    with launching("quantize", x):
        from intarsia.kernels.float8_triton import quantize_kernel

        quantize_kernel[grid](
            x=x,
            values=values,
            scale=scale,
            rows=rows,
            width=width,
            ROWS=rows_at_once,
            COLUMNS=columns,
            num_warps=row_warps(columns),
        )
    return values, scale
