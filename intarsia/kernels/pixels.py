"""The last steps of a picture: a decoder's output to 8-bit levels, and pasting it into the original."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["paste", "paste_reference", "to_levels", "to_levels_reference"]

_BLOCK = 1024


def to_levels_reference(picture: Tensor) -> Tensor:
    """By torch's own operations; see :func:`to_levels`."""
    levels = (picture.float() * 127.5 + 127.5).clamp_(0, 255).round_().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()


def to_levels(picture: Tensor, *, fused: bool | None = None) -> Tensor:
    """Values of -1…1 as levels of 0…255, rounded to nearest, halves to even; what is beyond is cut off.

    Args:
        picture: ``[B, C, H, W]`` float16, bfloat16 or float32, contiguous or channels_last; finite, as there
            is no level for anything else.
        fused: None takes the kernel on CUDA and the reference elsewhere.

    Returns:
        uint8 ``[B, H, W, C]``, contiguous.

    Raises:
        BackendError: ``picture`` lies otherwise in memory, or triton is missing.
    """
    if not fused_wanted(fused, picture):
        return to_levels_reference(picture)
    channels, places, row, step = _strides("to_levels", picture)
    out = picture.new_empty(picture.shape[0], *picture.shape[2:], channels, dtype=torch.uint8)
    if out.numel():
        grid = (ceil_div(places * channels, _BLOCK), picture.shape[0])
        # multiplication and addition rounded one by one, as torch does
        _to_levels.launch(grid, picture, out, places, channels, row, step, BLOCK=_BLOCK, enable_fp_fusion=False)
    return out


def paste_reference(base: Tensor, over: Tensor, weights: Tensor) -> Tensor:
    """By torch's own operations; see :func:`paste`."""
    levels = over if over.dtype == torch.uint8 else to_levels_reference(over[None])[0]
    step = (levels.int() - base.int()) * weights.int()[:, :, None]
    rounded = torch.div(2 * step.abs() + 255, 510, rounding_mode="floor")
    return (base.int() + step.sign() * rounded).to(torch.uint8)


def paste(
    base: Tensor, over: Tensor, weights: Tensor, *, out: Tensor | None = None, fused: bool | None = None
) -> Tensor:
    """``base + (over - base) · weights / 255``: :func:`intarsia.canvas.paste.blend` on the device, bit for bit.

    Exactly ``base`` where the weight is 0 (``over`` is not even read there), exactly ``over`` at 255.

    Args:
        base: uint8 ``[h, w, C]``, rows packed; a view of some rows and columns of a larger picture will do.
        over: uint8 ``[h, w, C]``, rows packed, or a decoder's output ``[C, h, w]`` as :func:`to_levels` takes
            it, which is then converted where it is needed and nowhere else.
        weights: uint8 ``[h, w]``, rows packed.
        out: where to write, laid out as ``base`` may be; ``base`` itself pastes in place. None is a new tensor.
        fused: None takes the kernel on CUDA and the reference elsewhere.

    Returns:
        ``out``.

    Raises:
        BackendError: a shape, dtype or layout is another, or triton is missing.
    """
    height, width, channels = _refuse_shapes(base, over, weights, out)
    if not fused_wanted(fused, base):
        made = paste_reference(base, over, weights)
        return made if out is None else out.copy_(made)
    target = torch.empty_like(base, memory_format=torch.contiguous_format) if out is None else out
    convert = over.dtype != torch.uint8
    row, step, plane = over.stride(0), channels, 1
    if convert:
        _, _, plane, step = _strides("paste", over[None])
        row = width * step
    strides = (base.stride(0), row, step, plane, weights.stride(0), target.stride(0))
    if target.numel():
        grid = (ceil_div(width * channels, _BLOCK), height)
        given = (base, over, weights, target, width, channels, *strides)
        _paste.launch(grid, *given, CONVERT=convert, BLOCK=_BLOCK, enable_fp_fusion=False)
    return target


def _strides(kernel: str, picture: Tensor) -> tuple[int, int, int, int]:
    """Channels, places, and the steps from channel to channel and from place to place."""
    _, channels, height, width = picture.shape
    if picture.is_contiguous():
        return channels, height * width, height * width, 1
    packed = picture.is_contiguous(memory_format=torch.channels_last)
    check(packed, kernel, "picture", "contiguous or channels_last", f"of strides {picture.stride()}")
    return channels, height * width, 1, channels


def _refuse_shapes(base: Tensor, over: Tensor, weights: Tensor, out: Tensor | None) -> tuple[int, int, int]:
    check(base.ndim == 3, "paste", "base", "of three dimensions", f"of shape {tuple(base.shape)}")
    height, width, channels = base.shape
    shape = (height, width, channels) if over.dtype == torch.uint8 else (channels, height, width)
    check(over.shape == shape, "paste", "over", f"of shape {shape}", tuple(over.shape))
    check(weights.shape == (height, width), "paste", "weights", f"of shape {(height, width)}", tuple(weights.shape))
    levels = [("base", base), ("over", over), ("out", out)]
    for name, tensor in levels:
        if tensor is None or (name == "over" and over.dtype != torch.uint8):
            continue
        fits = tensor.shape == base.shape and tensor.dtype == torch.uint8 and tensor.stride()[1:] == (channels, 1)
        allowed = f"uint8 of shape {tuple(base.shape)} with packed rows"
        check(fits, "paste", name, allowed, f"{tensor.dtype} of shape {tuple(tensor.shape)}, strides {tensor.stride()}")
    fits = weights.dtype == torch.uint8 and weights.stride(1) == 1
    check(fits, "paste", "weights", "uint8 with packed rows", f"{weights.dtype} of strides {weights.stride()}")
    return height, width, channels


def _rounded(value: tl.tensor) -> tl.tensor:
    """-1…1 → 0…255 to nearest, halves to even: what is above the floor is exact in float32."""
    value = tl.minimum(tl.maximum(value.to(tl.float32) * 127.5 + 127.5, 0.0), 255.0)
    floor = tl.floor(value)
    above = value - floor
    odd = floor - 2.0 * tl.floor(floor * 0.5)
    up = (above > 0.5) | ((above == 0.5) & (odd == 1.0))
    return floor + tl.where(up, 1.0, 0.0)


@partial(Kernel, general=("places", "plane", "step"), parts=(_rounded,))
def _to_levels(
    picture: tl.tensor,
    out: tl.tensor,
    places: tl.tensor,
    channels: tl.tensor,
    plane: tl.tensor,
    step: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` levels of one picture."""
    batch = tl.program_id(1).to(tl.int64) * places * channels
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < places * channels
    place, channel = element // channels, element % channels
    value = tl.load(picture + batch + place * step + channel * plane, mask=inside, other=0.0)
    tl.store(out + batch + element, _rounded(value).to(tl.uint8), mask=inside)


_SIZES = ("width", "base_row", "over_row", "over_step", "over_plane", "weight_row", "out_row")


@partial(Kernel, general=_SIZES, parts=(_rounded,))
def _paste(
    base: tl.tensor,
    over: tl.tensor,
    weights: tl.tensor,
    out: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    base_row: tl.tensor,
    over_row: tl.tensor,
    over_step: tl.tensor,
    over_plane: tl.tensor,
    weight_row: tl.tensor,
    out_row: tl.tensor,
    CONVERT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` levels of one row."""
    row = tl.program_id(1).to(tl.int64)
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < width * channels
    column, channel = element // channels, element % channels
    share = tl.load(weights + row * weight_row + column, mask=inside, other=0).to(tl.int32)
    below = tl.load(base + row * base_row + element, mask=inside, other=0).to(tl.int32)
    source = over + row * over_row + column * over_step + channel * over_plane
    drawn = tl.load(source, mask=inside & (share > 0), other=0)
    if CONVERT:
        drawn = _rounded(drawn)
    change = (drawn.to(tl.int32) - below) * share
    rounded = (2 * tl.abs(change) + 255) // 510
    mixed = below + tl.where(change < 0, -rounded, rounded)
    tl.store(out + row * out_row + element, mixed.to(tl.uint8), mask=inside)
