"""The Triton kernels of :mod:`intarsia.kernels.pixels`."""

from __future__ import annotations

import triton
import triton.language as tl

from intarsia.kernels.pixels import HALF_RANGE, MAX_LEVEL

_HALF_RANGE = tl.constexpr(HALF_RANGE)
_MAX_LEVEL = tl.constexpr(MAX_LEVEL)


@triton.jit
def _level(value: tl.tensor) -> tl.tensor:
    """-1…1 → 0…255 to nearest, halves to even: what is above the floor is exact in float32."""
    scaled = value.to(tl.float32) * _HALF_RANGE + _HALF_RANGE
    level = tl.minimum(tl.maximum(scaled, 0.0), 255.0)

    floor = tl.floor(level)
    above = level - floor
    remainder = floor - 2.0 * tl.floor(floor * 0.5)
    is_odd = remainder == 1.0
    goes_up = (above > 0.5) | ((above == 0.5) & is_odd)
    return floor + tl.where(goes_up, 1.0, 0.0)


@triton.jit(do_not_specialize=["pixels", "channel_stride", "pixel_stride"])
def to_levels_kernel(
    image: tl.tensor,
    out: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    channel_stride: tl.tensor,
    pixel_stride: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` levels of one image."""
    first_of_image = tl.program_id(1).to(tl.int64) * pixels * channels
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < pixels * channels
    pixel = element // channels
    channel = element % channels

    source = image + first_of_image + pixel * pixel_stride + channel * channel_stride
    value = tl.load(source, mask=inside, other=0.0)
    level = _level(value).to(tl.uint8)
    tl.store(out + first_of_image + element, level, mask=inside)


@triton.jit(
    do_not_specialize=[
        "width",
        "base_row_stride",
        "over_row_stride",
        "over_pixel_stride",
        "over_channel_stride",
        "weights_row_stride",
        "out_row_stride",
    ]
)
def paste_kernel(
    base: tl.tensor,
    over: tl.tensor,
    weights: tl.tensor,
    out: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    base_row_stride: tl.tensor,
    over_row_stride: tl.tensor,
    over_pixel_stride: tl.tensor,
    over_channel_stride: tl.tensor,
    weights_row_stride: tl.tensor,
    out_row_stride: tl.tensor,
    CONVERTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` levels of one row."""
    row = tl.program_id(1).to(tl.int64)
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = element < width * channels
    column = element // channels
    channel = element % channels

    weight_row = weights + row * weights_row_stride
    weight = tl.load(weight_row + column, mask=inside, other=0).to(tl.int32)
    base_row = base + row * base_row_stride
    below = tl.load(base_row + element, mask=inside, other=0).to(tl.int32)

    source = over + row * over_row_stride + column * over_pixel_stride + channel * over_channel_stride
    above = tl.load(source, mask=inside & (weight > 0), other=0)
    if CONVERTS:
        above = _level(above)

    # change / 255, rounded to nearest
    change = (above.to(tl.int32) - below) * weight
    rounded = (2 * tl.abs(change) + _MAX_LEVEL) // (2 * _MAX_LEVEL)
    mixed = below + tl.where(change < 0, -rounded, rounded)
    tl.store(out + row * out_row_stride + element, mixed.to(tl.uint8), mask=inside)
