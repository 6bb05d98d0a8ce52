"""Each lane's own row of its own table, gathered on the device."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["pick_rows", "pick_rows_reference"]

_BLOCK = 1024


def pick_rows_reference(table: Tensor, cursor: Tensor, out: Tensor, row: Tensor | None = None) -> None:
    """By torch's own operations; see :func:`pick_rows`."""
    lanes, rows, _, width = table.shape
    chosen = table[torch.arange(lanes, device=table.device), cursor.long().clamp(0, rows - 1)]
    out.view(lanes, -1, width).copy_(chosen)
    if row is not None:
        row.copy_(cursor)


def pick_rows(
    table: Tensor, cursor: Tensor, out: Tensor, row: Tensor | None = None, *, fused: bool | None = None
) -> None:
    """``out[lane] = table[lane, cursor[lane]]``, for all lanes; an idle lane gets some row of its table.

    Args:
        table: ``[L, R, H, W]``, packed; ``H`` is 1 where the halves of a lane share their rows.
        cursor: int32 ``[L]``.
        out: ``[L * halves, W]``, packed, of the table's dtype; written. ``halves`` is a multiple of ``H``.
        row: int32 ``[L]``; written: the cursor as it was, for what comes after this and moves the cursor on.
        fused: None takes the kernel on CUDA and the reference elsewhere.

    Raises:
        BackendError: a shape, dtype or layout is another, or triton is missing.
    """
    lanes, _, halves, width = table.shape
    fits = out.ndim == 2 and out.shape[1] == width and len(out) % (lanes * halves) == 0 and out.dtype == table.dtype
    check(fits, "pick", "out", f"{table.dtype} of {width} columns", f"{out.dtype} of shape {tuple(out.shape)}")
    for name, tensor in (("table", table), ("out", out)):
        check(tensor.is_contiguous(), "pick", name, "packed", f"of strides {tensor.stride()}")
    for name, counter in (("cursor", cursor), ("row", row)):
        found = None if counter is None else f"{counter.dtype} of shape {tuple(counter.shape)}"
        right = counter is None or (counter.dtype == torch.int32 and counter.shape == (lanes,))
        check(right, "pick", name, f"torch.int32 of shape {(lanes,)}", found)
    if fused_wanted(fused, table):
        torch.ops.intarsia.pick(table, cursor, out, row)
    else:
        pick_rows_reference(table, cursor, out, row)


def _pick_op(table: Tensor, cursor: Tensor, out: Tensor, row: Tensor | None) -> None:
    """The operation ``intarsia::pick``."""
    lanes, rows, halves, width = table.shape
    columns = out.numel() // lanes
    kept = cursor if row is None else row
    grid = (ceil_div(columns, _BLOCK), lanes)
    _pick.launch(grid, table, cursor, out, kept, rows, halves, width, columns, KEEP=row is not None, BLOCK=_BLOCK)


def _pick_fake(*_: object) -> None:
    """Everything it writes is there already."""


torch.library.define("intarsia::pick", "(Tensor table, Tensor cursor, Tensor(a!) out, Tensor(b!)? row) -> ()")
torch.library.impl("intarsia::pick", ("cpu", "cuda"), _pick_op)  # a CPU has it in Triton's interpreter
torch.library.register_fake("intarsia::pick", _pick_fake)


@partial(Kernel, general=("rows", "width", "columns"))
def _pick(
    table: tl.tensor,
    cursor: tl.tensor,
    out: tl.tensor,
    kept: tl.tensor,
    rows: tl.tensor,
    halves: tl.tensor,
    width: tl.tensor,
    columns: tl.tensor,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` elements of one lane."""
    lane = tl.program_id(1).to(tl.int64)
    row = tl.load(cursor + lane)
    if KEEP:
        tl.store(kept + lane, row, mask=tl.program_id(0) == 0)
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < columns
    line = lane * rows + tl.minimum(tl.maximum(row, 0), rows - 1)
    source = table + (line * halves + element // width % halves) * width + element % width
    tl.store(out + lane * columns + element, tl.load(source, mask=inside, other=0), mask=inside)
