"""GEGLU behind its projection: value · GELU(gate), in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted, operation

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["geglu", "geglu_reference"]

_BLOCK = 1024


def geglu_reference(packed: Tensor) -> Tensor:
    """``value * GELU(gate)`` in float32, rounded once; see :func:`geglu`."""
    value, gate = packed.float().chunk(2, dim=-1)
    return (value * F.gelu(gate)).to(packed.dtype)


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
    check(packed.is_contiguous(), "geglu", "packed", "contiguous", f"of strides {packed.stride()}")
    check(packed.shape[-1] % 2 == 0, "geglu", "the last dimension of packed", "even", packed.shape[-1])
    made: Tensor = _geglu(packed)
    return made


def _halved(packed: Tensor) -> Tensor:
    return packed.new_empty(*packed.shape[:-1], packed.shape[-1] // 2)


@operation("(Tensor packed) -> Tensor", _halved)
def _geglu(packed: Tensor) -> Tensor:
    out = _halved(packed)
    width = out.shape[-1]
    if out.numel():
        _gate.launch((out.numel() // width, ceil_div(width, _BLOCK)), packed, out, width, BLOCK=_BLOCK)
    return out


@Kernel
def _gate(packed: tl.tensor, out: tl.tensor, width: tl.tensor, BLOCK: tl.constexpr) -> None:
    """One program: ``BLOCK`` columns of one row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    start = packed + row * 2 * width + columns
    value = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(start + width, mask=inside, other=0.0).to(tl.float32)
    # 1/sqrt(2): GELU is gate times the normal distribution function of gate
    gelu = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + row * width + columns, value * gelu, mask=inside)
