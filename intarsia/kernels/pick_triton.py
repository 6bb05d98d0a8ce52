"""The Triton kernel of :mod:`intarsia.kernels.pick`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "width", "columns"])
def pick_kernel(
    table: tl.tensor,
    cursor: tl.tensor,
    out: tl.tensor,
    current: tl.tensor,
    rows: tl.tensor,
    branches: tl.tensor,
    width: tl.tensor,
    columns: tl.tensor,
    WRITES_CURRENT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` elements of one lane."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.load(cursor + lane)
    if WRITES_CURRENT:
        tl.store(current + lane, row, mask=tl.program_id(0) == 0)

    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < columns
    branch = element // width % branches
    column = element % width
    bounded_row = tl.minimum(tl.maximum(row, 0), rows - 1)
    table_row = lane * rows + bounded_row

    source = table + (table_row * branches + branch) * width + column
    value = tl.load(source, mask=inside, other=0)
    tl.store(out + lane * columns + element, value, mask=inside)
