"""The Triton kernel of :mod:`intarsia.kernels.float8`, and the numbers of the format for other kernels."""

from __future__ import annotations

import triton
import triton.language as tl

from intarsia.kernels import float8

E4M3_MAX = tl.constexpr(float8.E4M3_MAX)
LEAST_ROW_MAX = tl.constexpr(float8.LEAST_ROW_MAX)


@triton.jit(do_not_specialize=["rows"])
def quantize_kernel(
    x: tl.tensor,
    values: tl.tensor,
    scale: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program: ``ROWS`` whole rows."""
    first_row = tl.program_id(0).to(tl.int64) * ROWS
    row = first_row + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < width)
    offset = row * width + column

    value = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
    row_max = tl.max(tl.abs(value), axis=1)
    row_max = tl.maximum(row_max, LEAST_ROW_MAX)[:, None]
    scaled = value * (E4M3_MAX / row_max)

    tl.store(scale + row, row_max / E4M3_MAX, mask=row < rows)
    tl.store(values + offset, scaled, mask=inside)
