"""The Triton kernel of :mod:`intarsia.kernels.layer_norm`."""

from __future__ import annotations

import triton
import triton.language as tl

from intarsia.kernels.float8_triton import E4M3_MAX, LEAST_ROW_MAX


@triton.jit(do_not_specialize=["rows", "has_delta"])
def layer_norm_kernel(
    x: tl.tensor,
    delta: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    total: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    has_delta: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    QUANTIZES: tl.constexpr,
) -> None:
    """One program: ``ROWS`` whole rows. The mean first, then squares about it: no cancellation.

    ``has_delta`` is 1 where ``delta`` is added, else 0: one kernel for both, as each takes long to compile.
    """
    first_row = tl.program_id(0).to(tl.int64) * ROWS
    row = first_row + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < width)
    offset = row * width + column

    value = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
    added = inside & (has_delta != 0)
    value += tl.load(delta + offset, mask=added, other=0.0).to(tl.float32)
    tl.store(total + offset, value, mask=added)

    mean = tl.sum(value, axis=1) / width
    centered = tl.where(inside, value - mean[:, None], 0.0)
    variance = tl.sum(centered * centered, axis=1) / width
    inverse_std = 1.0 / tl.sqrt(variance + eps)

    gain = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    normed = centered * inverse_std[:, None] * gain + shift

    if QUANTIZES:
        # beyond the row's end normed is 0, as shift is
        row_max = tl.max(tl.abs(normed), axis=1)
        row_max = tl.maximum(row_max, LEAST_ROW_MAX)[:, None]
        tl.store(scale + row, row_max / E4M3_MAX, mask=row < rows)
        normed *= E4M3_MAX / row_max
    tl.store(out + offset, normed, mask=inside)
