"""LayerNorm over the last dimension, with the residual addition before it: each row in registers, read once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from intarsia.kernels.float8 import Float8, empty_float8, quantize_reference
from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted, operation, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

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
_WIDEST = 16384


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """In float32, rounded once; see :func:`layer_norm`."""
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, fused: bool | None = None) -> Tensor:
    """Layer normalisation (Ba et al. 2016) with mean and variance accumulated in float32.

    Args:
        x: ``[.., C]`` float16, bfloat16 or float32, contiguous; C up to 16,384.
        weight, bias: ``[C]``, any float dtype, contiguous.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Returns:
        Shape and dtype of ``x``, contiguous.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not fused_wanted(fused, x, weight, bias):
        return layer_norm_reference(x, weight, bias, eps)
    _refuse_layouts(x, weight, bias)
    made: Tensor = _layer_norm(x, weight, bias, eps)
    return made


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
    """What a branch found is added to ``x``, and the sum normalised for the next branch.

    Args:
        delta: shape and dtype of ``x``, contiguous. All others as in :func:`layer_norm`.

    Returns:
        ``x + delta``, and its layer normalisation, which is that of the sum before it was rounded.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not fused_wanted(fused, x, delta, weight, bias):
        return add_layer_norm_reference(x, delta, weight, bias, eps)
    _refuse_layouts(x, weight, bias, delta)
    total, normed = _add_layer_norm(x, delta, weight, bias, eps)
    return total, normed


def layer_norm_float8_reference(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Float8]:
    """In float32, each result rounded once; see :func:`layer_norm_float8`."""
    total = x.float() if delta is None else x.float() + delta.float()
    normed = F.layer_norm(total, total.shape[-1:], weight.float(), bias.float(), eps)
    return x if delta is None else total.to(x.dtype), quantize_reference(normed)


def layer_norm_float8(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, fused: bool | None = None
) -> tuple[Tensor, Float8]:
    """:func:`add_layer_norm` for a product in e4m3: normalised rows are written with their scales, in the same pass.

    Args:
        delta: None adds nothing; then ``x`` itself is the sum. All others as in :func:`add_layer_norm`.

    Returns:
        The sum, and its layer normalisation, which was never rounded to half precision.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not fused_wanted(fused, x, delta, weight, bias):
        return layer_norm_float8_reference(x, delta, weight, bias, eps)
    _refuse_layouts(x, weight, bias, delta)
    if delta is None:
        return x, Float8(*_layer_norm_float8(x, weight, bias, eps))
    total, values, scale = _add_layer_norm_float8(x, delta, weight, bias, eps)
    return total, Float8(values, scale)


def _refuse_layouts(x: Tensor, weight: Tensor, bias: Tensor, delta: Tensor | None = None) -> None:
    width = x.shape[-1]
    check(x.is_contiguous(), "layer_norm", "x", "contiguous", f"of strides {x.stride()}")
    check(width <= _WIDEST, "layer_norm", "the last dimension of x", f"at most {_WIDEST}", width)
    for name, tensor in (("weight", weight), ("bias", bias)):
        fits = tensor.shape == (width,) and tensor.is_contiguous()
        check(fits, "layer_norm", name, f"contiguous of shape ({width},)", tuple(tensor.shape))
    if delta is not None:
        fits = delta.shape == x.shape and delta.dtype == x.dtype and delta.is_contiguous()
        found = f"{delta.dtype} of shape {tuple(delta.shape)} and strides {delta.stride()}"
        check(fits, "layer_norm", "delta", f"contiguous {x.dtype} of shape {tuple(x.shape)}", found)


def _alike(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _two_alike(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@operation("(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor", _alike)
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    out = _alike(x)
    _launch(x, None, weight, bias, eps, (out, out))
    return out


@operation("(Tensor x, Tensor delta, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)", _two_alike)
def _add_layer_norm(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total, out = _two_alike(x)
    _launch(x, delta, weight, bias, eps, (total, out))
    return total, out


def _rows_alike(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_float8(x, x.shape[-1])


def _sum_and_rows_alike(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return _alike(x), *_rows_alike(x)


@operation("(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)", _rows_alike)
def _layer_norm_float8(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    values, scale = _rows_alike(x)
    _launch(x, None, weight, bias, eps, (x, values, scale))  # x stands in for a sum that is not written
    return values, scale


@operation(
    "(Tensor x, Tensor delta, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)", _sum_and_rows_alike
)
def _add_layer_norm_float8(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    total, values, scale = _sum_and_rows_alike(x)
    _launch(x, delta, weight, bias, eps, (total, values, scale))
    return total, values, scale


def _launch(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, results: tuple[Tensor, ...]
) -> None:
    """``results``: the sum and its normalisation; and the scales of its rows where that is e4m3."""
    if not x.numel():
        return
    width = x.shape[-1]
    columns, rows = power_of_two(width), x.numel() // width
    block = max(1, _TILE // columns)
    sizes = {"ROWS": block, "COLUMNS": columns, "QUANTIZES": len(results) == 3}
    places = (*results, *results[1:])[:3]  # without scales any tensor stands in for them
    given = (x if delta is None else delta, weight, bias, *places, rows, width, eps, int(delta is not None))
    _normalise.launch((ceil_div(rows, block),), x, *given, **sizes, num_warps=8 if columns > _TILE else 4)


@partial(Kernel, general=("rows", "adds"))
def _normalise(
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
    adds: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    QUANTIZES: tl.constexpr,
) -> None:
    """One program: ``ROWS`` whole rows. The mean first, then squares about it: no cancellation.

    ``adds`` is 1 where there is something to be added, else 0: one kernel for both, as each takes long to compile.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < width)
    place = row * width + column
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    summed = inside & (adds != 0)
    value += tl.load(delta + place, mask=summed, other=0.0).to(tl.float32)
    tl.store(total + place, value, mask=summed)
    mean = tl.sum(value, axis=1) / width
    centred = tl.where(inside, value - mean[:, None], 0.0)
    spread = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / width + eps)
    gain = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    normed = centred * spread[:, None] * gain + shift
    if QUANTIZES:
        # what is beyond the row's end is shift's padding of zero
        most = tl.maximum(tl.max(tl.abs(normed), axis=1), 1e-12)[:, None]
        tl.store(scale + row, most / 448.0, mask=row < rows)
        normed *= 448.0 / most
    tl.store(out + place, normed, mask=inside)
