"""GEGLU behind its projection: value · GELU(gate), in one pass over memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from intarsia.kernels.float8 import Float8, empty_float8, quantize_reference
from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted, operation, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["geglu", "geglu_float8", "geglu_float8_reference", "geglu_reference"]

_BLOCK = 1024
# A whole row in a program's registers: 32 of a thread with eight warps.
_NARROW, _WIDEST = 4096, 16384


def geglu_reference(packed: Tensor) -> Tensor:
    """``value * GELU(gate)`` in float32, rounded once; see :func:`geglu`."""
    return _exact(packed).to(packed.dtype)


def geglu_float8_reference(packed: Tensor) -> Float8:
    """In float32, rounded once; see :func:`geglu_float8`."""
    return quantize_reference(_exact(packed))


def _exact(packed: Tensor) -> Tensor:
    value, gate = packed.float().chunk(2, dim=-1)
    return value * F.gelu(gate)


def geglu(packed: Tensor, *, fused: bool | None = None) -> Tensor:
    """Gated linear unit with the exact GELU (Shazeer 2020, "GLU Variants Improve Transformer").

    Args:
        packed: ``[.., 2W]`` float16, bfloat16 or float32, contiguous: values, then gates.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Returns:
        ``[.., W]``, contiguous, dtype of ``packed``.

    Raises:
        BackendError: ``packed`` is not contiguous, its last dimension is odd, or triton is missing.
    """
    if not fused_wanted(fused, packed):
        return geglu_reference(packed)
    _refuse_layouts(packed)
    made: Tensor = _geglu(packed)
    return made


def geglu_float8(packed: Tensor, *, fused: bool | None = None) -> Float8:
    """:func:`geglu` for a product in e4m3: rows are written with their scales, in the same pass.

    Args:
        packed: as for :func:`geglu`; W up to 16,384.

    Raises:
        BackendError: ``packed`` is not contiguous, its last dimension is odd or too wide, or triton is missing.
    """
    if not fused_wanted(fused, packed):
        return geglu_float8_reference(packed)
    _refuse_layouts(packed)
    width = packed.shape[-1] // 2
    check(width <= _WIDEST, "geglu", "half the last dimension of packed", f"at most {_WIDEST}", width)
    return Float8(*_geglu_float8(packed))


def _refuse_layouts(packed: Tensor) -> None:
    check(packed.is_contiguous(), "geglu", "packed", "contiguous", f"of strides {packed.stride()}")
    check(packed.shape[-1] % 2 == 0, "geglu", "the last dimension of packed", "even", packed.shape[-1])


def _halved(packed: Tensor) -> Tensor:
    return packed.new_empty(*packed.shape[:-1], packed.shape[-1] // 2)


@operation("(Tensor packed) -> Tensor", _halved)
def _geglu(packed: Tensor) -> Tensor:
    out = _halved(packed)
    width = out.shape[-1]
    if out.numel():
        _gate.launch((out.numel() // width, ceil_div(width, _BLOCK)), packed, out, width, BLOCK=_BLOCK)
    return out


def _halved_rows(packed: Tensor) -> tuple[Tensor, Tensor]:
    return empty_float8(packed, packed.shape[-1] // 2)


@operation("(Tensor packed) -> (Tensor, Tensor)", _halved_rows)
def _geglu_float8(packed: Tensor) -> tuple[Tensor, Tensor]:
    values, scale = _halved_rows(packed)
    width = values.shape[-1]
    if values.numel():
        columns = power_of_two(width)
        warps = 8 if columns > _NARROW else 4
        _gate_row.launch((values.numel() // width,), packed, values, scale, width, COLUMNS=columns, num_warps=warps)
    return values, scale


def _gelu(gate: tl.tensor) -> tl.tensor:
    # 1/sqrt(2): GELU is gate times the normal distribution function of gate
    return 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))


@partial(Kernel, parts=(_gelu,))
def _gate(packed: tl.tensor, out: tl.tensor, width: tl.tensor, BLOCK: tl.constexpr) -> None:
    """One program: ``BLOCK`` columns of one row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    start = packed + row * 2 * width + columns
    value = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(start + width, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, value * _gelu(gate), mask=inside)


@partial(Kernel, parts=(_gelu,))
def _gate_row(packed: tl.tensor, values: tl.tensor, scale: tl.tensor, width: tl.tensor, COLUMNS: tl.constexpr) -> None:
    """One program: a whole row, whose largest value is its scale."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    start = packed + row * 2 * width + columns
    value = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(start + width, mask=inside, other=0.0).to(tl.float32)
    gated = value * _gelu(gate)
    most = tl.maximum(tl.max(tl.abs(gated), axis=0), 1e-12)
    tl.store(scale + row, most / 448.0)
    tl.store(values + row * width + columns, gated * (448.0 / most), mask=inside)
