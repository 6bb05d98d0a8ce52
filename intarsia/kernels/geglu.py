"""GEGLU, the activation behind a gated projection: value · GELU(gate), in one pass over memory."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from intarsia.kernels.float8 import MAX_ROW_WIDTH, Float8, empty_float8, quantize_reference, row_warps
from intarsia.kernels.launch import ceil_div, check, launching, operation, power_of_two, runs_fused

__all__ = ["geglu", "geglu_float8", "geglu_float8_reference", "geglu_reference"]

_BLOCK = 1024


def geglu_reference(packed: Tensor) -> Tensor:
    """``value * GELU(gate)`` in float32, rounded once; see :func:`geglu`."""
    return _float32_geglu(packed).to(packed.dtype)


def geglu_float8_reference(packed: Tensor) -> Float8:
    """In float32, rounded once; see :func:`geglu_float8`."""
    return quantize_reference(_float32_geglu(packed))


def _float32_geglu(packed: Tensor) -> Tensor:
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
    if not runs_fused(fused, packed):
        return geglu_reference(packed)

    _check_layout(packed)
    gated: Tensor = _geglu(packed)
    return gated


def geglu_float8(packed: Tensor, *, fused: bool | None = None) -> Float8:
    """:func:`geglu` for a product in e4m3: rows are written with their scales, in the same pass.

    Args:
        packed: as for :func:`geglu`; W up to 16,384.

    Raises:
        BackendError: ``packed`` is not contiguous, its last dimension is odd or too wide, or triton is missing.
    """
    if not runs_fused(fused, packed):
        return geglu_float8_reference(packed)

    _check_layout(packed)
    width = packed.shape[-1] // 2
    fits = width <= MAX_ROW_WIDTH
    check(fits, "geglu: half the last dimension of packed", f"at most {MAX_ROW_WIDTH}", width)
    values, scale = _geglu_float8(packed)
    return Float8(values, scale)


def _check_layout(packed: Tensor) -> None:
    check(packed.is_contiguous(), "geglu: packed", "contiguous", f"of strides {packed.stride()}")
    check(packed.shape[-1] % 2 == 0, "geglu: the last dimension of packed", "even", packed.shape[-1])


def _empty_half(packed: Tensor) -> Tensor:
    *rows, packed_width = packed.shape
    return packed.new_empty(*rows, packed_width // 2)


@operation("(Tensor packed) -> Tensor", _empty_half)
def _geglu(packed: Tensor) -> Tensor:
    out = _empty_half(packed)
    if not out.numel():
        return out

    width = out.shape[-1]
    grid = (out.numel() // width, ceil_div(width, _BLOCK))
    with launching("geglu", packed):
        from intarsia.kernels.geglu_triton import geglu_kernel

        geglu_kernel[grid](packed=packed, out=out, width=width, BLOCK=_BLOCK)
    return out


def _empty_half_float8(packed: Tensor) -> tuple[Tensor, Tensor]:
    return empty_float8(packed, packed.shape[-1] // 2)


@operation("(Tensor packed) -> (Tensor, Tensor)", _empty_half_float8)
def _geglu_float8(packed: Tensor) -> tuple[Tensor, Tensor]:
    values, scale = _empty_half_float8(packed)
    if not values.numel():
        return values, scale

    width = values.shape[-1]
    columns = power_of_two(width)
    grid = (values.numel() // width,)
    with launching("geglu_float8", packed):
        from intarsia.kernels.geglu_triton import geglu_float8_kernel

        geglu_float8_kernel[grid](
            packed=packed,
            values=values,
            scale=scale,
            width=width,
            COLUMNS=columns,
            num_warps=row_warps(columns),
        )
    return values, scale
