"""LayerNorm over the last dimension, with the residual addition before it: each row in registers, read once."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from intarsia.kernels.float8 import Float8, empty_float8, quantize_reference, row_warps
from intarsia.kernels.launch import ceil_div, check, described, launching, operation, power_of_two, runs_fused

__all__ = [
    "add_layer_norm",
    "add_layer_norm_reference",
    "layer_norm",
    "layer_norm_float8",
    "layer_norm_float8_reference",
    "layer_norm_reference",
]

# Elements of one program's tile: 32 registers a thread with four warps.
_TILE = 4096
# A program holds whole rows in registers.
_MAX_WIDTH = 16384


class _Norm(NamedTuple):
    """A layer's parameters: ``weight`` and ``bias`` ``[C]``."""

    weight: Tensor
    bias: Tensor
    eps: float


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """In float32, rounded once; see :func:`layer_norm`."""
    normed = F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps)
    return normed.to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, fused: bool | None = None) -> Tensor:
    """Layer normalization (Ba et al. 2016) with mean and variance accumulated in float32.

    Args:
        x: ``[.., C]`` float16, bfloat16 or float32, contiguous; C up to 16,384.
        weight, bias: ``[C]``, any float dtype, contiguous.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Returns:
        Shape and dtype of ``x``, contiguous.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not runs_fused(fused, x, weight, bias):
        return layer_norm_reference(x, weight, bias, eps)

    _check_layouts(x, weight, bias)
    normed: Tensor = _layer_norm(x, weight, bias, eps)
    return normed


def add_layer_norm_reference(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """In float32, each result rounded once; see :func:`add_layer_norm`."""
    total = x.float() + delta.float()
    normed = F.layer_norm(total, total.shape[-1:], weight.float(), bias.float(), eps)
    return total.to(x.dtype), normed.to(x.dtype)


def add_layer_norm(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, fused: bool | None = None
) -> tuple[Tensor, Tensor]:
    """The residual addition of a branch's output to ``x``, and the layer normalization before the next branch.

    Args:
        delta: shape and dtype of ``x``, contiguous. All others as in :func:`layer_norm`.

    Returns:
        ``x + delta``, and its layer normalization, which is that of the sum before it was rounded.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not runs_fused(fused, x, delta, weight, bias):
        return add_layer_norm_reference(x, delta, weight, bias, eps)

    _check_layouts(x, weight, bias, delta)
    total, normed = _add_layer_norm(x, delta, weight, bias, eps)
    return total, normed


def layer_norm_float8_reference(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Float8]:
    """In float32, each result rounded once; see :func:`layer_norm_float8`."""
    total = x.float()
    if delta is not None:
        total = total + delta.float()
        x = total.to(x.dtype)
    normed = F.layer_norm(total, total.shape[-1:], weight.float(), bias.float(), eps)
    return x, quantize_reference(normed)


def layer_norm_float8(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, fused: bool | None = None
) -> tuple[Tensor, Float8]:
    """:func:`add_layer_norm` for a product in e4m3: normalized rows are written with their scales, in the same pass.

    Args:
        delta: None adds nothing; then ``x`` itself is the sum. All others as in :func:`add_layer_norm`.

    Returns:
        The sum, and its layer normalization, which was never rounded to half precision.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not runs_fused(fused, x, delta, weight, bias):
        return layer_norm_float8_reference(x, delta, weight, bias, eps)

    _check_layouts(x, weight, bias, delta)
    if delta is None:
        return x, Float8(*_layer_norm_float8(x, weight, bias, eps))
    total, values, scale = _add_layer_norm_float8(x, delta, weight, bias, eps)
    return total, Float8(values, scale)


def _check_layouts(x: Tensor, weight: Tensor, bias: Tensor, delta: Tensor | None = None) -> None:
    width = x.shape[-1]
    check(x.is_contiguous(), "layer_norm: x", "contiguous", f"of strides {x.stride()}")
    check(width <= _MAX_WIDTH, "layer_norm: the last dimension of x", f"at most {_MAX_WIDTH}", width)

    for name, tensor in (("weight", weight), ("bias", bias)):
        fits = tensor.shape == (width,) and tensor.is_contiguous()
        check(fits, f"layer_norm: {name}", f"contiguous of shape ({width},)", tuple(tensor.shape))

    if delta is not None:
        fits = delta.shape == x.shape and delta.dtype == x.dtype and delta.is_contiguous()
        actual = f"{described(delta)} and strides {delta.stride()}"
        check(fits, "layer_norm: delta", f"contiguous {described(x)}", actual)


def _empty_like(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _two_empty_like(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _empty_rows(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_float8(x, x.shape[-1])


def _empty_sum_and_rows(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_like(x), *_empty_rows(x)


@operation("(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor", _empty_like)
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    out = _empty_like(x)
    _launch(x, _Norm(weight, bias, eps), out=out)
    return out


@operation("(Tensor x, Tensor delta, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)", _two_empty_like)
def _add_layer_norm(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total, out = _two_empty_like(x)
    _launch(x, _Norm(weight, bias, eps), delta=delta, total=total, out=out)
    return total, out


@operation("(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)", _empty_rows)
def _layer_norm_float8(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    values, scale = _empty_rows(x)
    _launch(x, _Norm(weight, bias, eps), out=values, scale=scale)
    return values, scale


@operation(
    "(Tensor x, Tensor delta, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)", _empty_sum_and_rows
)
def _add_layer_norm_float8(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    total, values, scale = _empty_sum_and_rows(x)
    _launch(x, _Norm(weight, bias, eps), delta=delta, total=total, out=values, scale=scale)
    return total, values, scale


def _launch(
    x: Tensor,
    norm: _Norm,
    *,
    delta: Tensor | None = None,
    total: Tensor | None = None,
    out: Tensor,
    scale: Tensor | None = None,
) -> None:
    """``total`` is written where there is a ``delta``, ``scale`` where ``out`` is e4m3; both are optional together."""
    if not x.numel():
        return

    width = x.shape[-1]
    columns = power_of_two(width)
    rows = x.numel() // width
    rows_at_once = max(1, _TILE // columns)
    grid = (ceil_div(rows, rows_at_once),)

    with launching("layer_norm", x):
        from intarsia.kernels.layer_norm_triton import layer_norm_kernel

        layer_norm_kernel[grid](
            x=x,
            # what is neither read nor written needs an address all the same
            delta=x if delta is None else delta,
            weight=norm.weight,
            bias=norm.bias,
            total=x if total is None else total,
            out=out,
            scale=out if scale is None else scale,
            rows=rows,
            width=width,
            eps=norm.eps,
            has_delta=int(delta is not None),
            ROWS=rows_at_once,
            COLUMNS=columns,
            QUANTIZES=scale is not None,
            num_warps=row_warps(columns),
        )
