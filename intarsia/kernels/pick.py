"""Each lane's own row of its own table, gathered on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.kernels.launch import ceil_div, check, described, launching, operation, runs_fused

__all__ = ["pick_rows", "pick_rows_reference"]

_BLOCK = 1024


def pick_rows_reference(table: Tensor, cursor: Tensor, out: Tensor, row: Tensor | None = None) -> None:
    """By torch's own operations; see :func:`pick_rows`."""
    lanes, rows, _, width = table.shape
    every_lane = torch.arange(lanes, device=table.device)
    own_row = cursor.long().clamp(0, rows - 1)
    out.view(lanes, -1, width).copy_(table[every_lane, own_row])
    if row is not None:
        row.copy_(cursor)


def pick_rows(
    table: Tensor, cursor: Tensor, out: Tensor, row: Tensor | None = None, *, fused: bool | None = None
) -> None:
    """``out[lane] = table[lane, cursor[lane]]``, for all lanes; an idle lane gets some row of its table.

    Args:
        table: ``[L, R, B, W]``, packed; ``B`` is 1 where the guidance branches of a lane share their rows.
        cursor: int32 ``[L]``.
        out: ``[L * branches, W]``, packed, of the table's dtype; written. ``branches`` is a multiple of ``B``.
        row: int32 ``[L]``; written: the cursor as it is now, for kernels that run after the cursor has moved on.
        fused: None takes the kernel on CUDA and the reference elsewhere.

    Raises:
        BackendError: a shape, dtype or layout is another, or triton is missing.
    """
    _check_out(table, out)
    _check_counter("cursor", cursor, len(table))
    if row is not None:
        _check_counter("row", row, len(table))

    if runs_fused(fused, table):
        _pick(table, cursor, out, row)
    else:
        pick_rows_reference(table, cursor, out, row)


def _check_out(table: Tensor, out: Tensor) -> None:
    lanes, _, branches, width = table.shape
    fits = out.ndim == 2 and out.shape[1] == width and out.dtype == table.dtype
    fits = fits and len(out) % (lanes * branches) == 0
    check(fits, "pick: out", f"{table.dtype} of {width} columns", described(out))

    for name, tensor in (("table", table), ("out", out)):
        check(tensor.is_contiguous(), f"pick: {name}", "packed", f"of strides {tensor.stride()}")


def _check_counter(name: str, counter: Tensor, lanes: int) -> None:
    fits = counter.dtype == torch.int32 and counter.shape == (lanes,)
    check(fits, f"pick: {name}", f"torch.int32 of shape {(lanes,)}", described(counter))


def _nothing_new(*_: object) -> None:
    """The operation writes to tensors that exist."""


@operation("(Tensor table, Tensor cursor, Tensor(a!) out, Tensor(b!)? row) -> ()", _nothing_new)
def _pick(table: Tensor, cursor: Tensor, out: Tensor, row: Tensor | None) -> None:
    lanes, rows, branches, width = table.shape
    columns = out.numel() // lanes
    grid = (ceil_div(columns, _BLOCK), lanes)
    with launching("pick", table):
        from intarsia.kernels.pick_triton import pick_kernel

        pick_kernel[grid](
            table=table,
            cursor=cursor,
            out=out,
            current=cursor if row is None else row,
            rows=rows,
            branches=branches,
            width=width,
            columns=columns,
            WRITES_CURRENT=row is not None,
            BLOCK=_BLOCK,
        )
