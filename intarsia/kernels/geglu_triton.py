"""The Triton kernels of :mod:`intarsia.kernels.geglu`."""

from __future__ import annotations

import triton
import triton.language as tl

from intarsia.kernels.float8_triton import E4M3_MAX, LEAST_ROW_MAX

_SQRT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def _gelu(gate: tl.tensor) -> tl.tensor:
    """``gate · Φ(gate)``, with the normal distribution function Φ."""
    twice_probability = 1.0 + tl.erf(gate * _SQRT_HALF)
    return 0.5 * gate * twice_probability


@triton.jit
def geglu_kernel(packed: tl.tensor, out: tl.tensor, width: tl.tensor, BLOCK: tl.constexpr) -> None:
    """One program: ``BLOCK`` columns of one row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    source = packed + row * 2 * width + column

    value = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(source + width, mask=inside, other=0.0).to(tl.float32)
    gated = value * _gelu(gate)
    tl.store(out + row * width + column, gated, mask=inside)


@triton.jit
def geglu_float8_kernel(
    packed: tl.tensor, values: tl.tensor, scale: tl.tensor, width: tl.tensor, COLUMNS: tl.constexpr
) -> None:
    """One program: a whole row, whose largest value gives its scale."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < width
    source = packed + row * 2 * width + column

    value = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(source + width, mask=inside, other=0.0).to(tl.float32)
    gated = value * _gelu(gate)
    row_max = tl.max(tl.abs(gated), axis=0)
    row_max = tl.maximum(row_max, LEAST_ROW_MAX)
    scaled = gated * (E4M3_MAX / row_max)

    tl.store(scale + row, row_max / E4M3_MAX)
    tl.store(values + row * width + column, scaled, mask=inside)
