"""The last steps of an image: a decoder's output to 8-bit levels, and pasting it into the original."""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.kernels.launch import ceil_div, check, described, launching, runs_fused

__all__ = ["paste", "paste_reference", "to_levels", "to_levels_reference"]

HALF_RANGE = 127.5
"""-1…1 times this, plus this, is 0…255."""

MAX_LEVEL = 255
"""The largest level, and the weight of a pixel that is pasted whole."""

_BLOCK = 1024


def to_levels_reference(image: Tensor) -> Tensor:
    """By torch's own operations; see :func:`to_levels`."""
    scaled = image.float() * HALF_RANGE + HALF_RANGE
    levels = scaled.clamp_(0, MAX_LEVEL).round_()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_levels(image: Tensor, *, fused: bool | None = None) -> Tensor:
    """Values of -1…1 as levels of 0…255, rounded to nearest, halves to even; what is beyond is cut off.

    Args:
        image: ``[B, C, H, W]`` float16, bfloat16 or float32, contiguous or channels_last; finite, as there
            is no level for anything else.
        fused: None takes the kernel on CUDA and the reference elsewhere.

    Returns:
        uint8 ``[B, H, W, C]``, contiguous.

    Raises:
        BackendError: ``image`` lies otherwise in memory, or triton is missing.
    """
    if not runs_fused(fused, image):
        return to_levels_reference(image)

    batch, channels, height, width = image.shape
    channel_stride, pixel_stride = _strides("to_levels: image", image)
    out = image.new_empty(batch, height, width, channels, dtype=torch.uint8)
    if not out.numel():
        return out

    pixels = height * width
    grid = (ceil_div(pixels * channels, _BLOCK), batch)
    with launching("to_levels", image):
        from intarsia.kernels.pixels_triton import to_levels_kernel

        to_levels_kernel[grid](
            image=image,
            out=out,
            pixels=pixels,
            channels=channels,
            channel_stride=channel_stride,
            pixel_stride=pixel_stride,
            BLOCK=_BLOCK,
            # multiplication and addition rounded one by one, as torch does
            enable_fp_fusion=False,
        )
    return out


def paste_reference(base: Tensor, over: Tensor, weights: Tensor) -> Tensor:
    """By torch's own operations; see :func:`paste`."""
    levels = over if over.dtype == torch.uint8 else to_levels_reference(over[None])[0]
    below = base.int()
    change = (levels.int() - below) * weights.int()[:, :, None]

    # change / 255, rounded to nearest
    doubled = 2 * change.abs() + MAX_LEVEL
    rounded = torch.div(doubled, 2 * MAX_LEVEL, rounding_mode="floor")
    mixed = below + change.sign() * rounded
    return mixed.to(torch.uint8)


def paste(
    base: Tensor, over: Tensor, weights: Tensor, *, out: Tensor | None = None, fused: bool | None = None
) -> Tensor:
    """``base + (over - base) · weights / 255``: :func:`intarsia.canvas.paste.blend` on the device, bit for bit.

    Exactly ``base`` where the weight is 0 (``over`` is not even read there), exactly ``over`` at 255.

    Args:
        base: uint8 ``[h, w, C]``, rows packed; a view of some rows and columns of a larger image will do.
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
    _check_shapes(base, over, weights)
    _check_layouts(base, over, weights, out)
    if not runs_fused(fused, base):
        pasted = paste_reference(base, over, weights)
        return pasted if out is None else out.copy_(pasted)

    if out is None:
        out = torch.empty_like(base, memory_format=torch.contiguous_format)
    if out.numel():
        _launch_paste(base, over, weights, out)
    return out


def _launch_paste(base: Tensor, over: Tensor, weights: Tensor, out: Tensor) -> None:
    height, width, channels = base.shape
    converts = over.dtype != torch.uint8
    if converts:
        channel_stride, pixel_stride = _strides("paste: over", over[None])
        row_stride = width * pixel_stride
    else:
        channel_stride, pixel_stride = 1, channels
        row_stride = over.stride(0)

    grid = (ceil_div(width * channels, _BLOCK), height)
    with launching("paste", base):
        from intarsia.kernels.pixels_triton import paste_kernel

        paste_kernel[grid](
            base=base,
            over=over,
            weights=weights,
            out=out,
            width=width,
            channels=channels,
            base_row_stride=base.stride(0),
            over_row_stride=row_stride,
            over_pixel_stride=pixel_stride,
            over_channel_stride=channel_stride,
            weights_row_stride=weights.stride(0),
            out_row_stride=out.stride(0),
            CONVERTS=converts,
            BLOCK=_BLOCK,
            enable_fp_fusion=False,
        )


def _strides(argument: str, image: Tensor) -> tuple[int, int]:
    """From channel to channel, and from pixel to pixel."""
    _, channels, height, width = image.shape
    if image.is_contiguous():
        return height * width, 1
    is_channels_last = image.is_contiguous(memory_format=torch.channels_last)
    check(is_channels_last, argument, "contiguous or channels_last", f"of strides {image.stride()}")
    return 1, channels


def _check_shapes(base: Tensor, over: Tensor, weights: Tensor) -> None:
    check(base.ndim == 3, "paste: base", "of three dimensions", f"of shape {tuple(base.shape)}")
    height, width, channels = base.shape

    over_shape = (height, width, channels) if over.dtype == torch.uint8 else (channels, height, width)
    check(over.shape == over_shape, "paste: over", f"of shape {over_shape}", tuple(over.shape))

    size = (height, width)
    check(weights.shape == size, "paste: weights", f"of shape {size}", tuple(weights.shape))


def _check_layouts(base: Tensor, over: Tensor, weights: Tensor, out: Tensor | None) -> None:
    _check_levels("base", base, base)
    if over.dtype == torch.uint8:
        _check_levels("over", over, base)
    if out is not None:
        _check_levels("out", out, base)

    fits = weights.dtype == torch.uint8 and weights.stride(1) == 1
    actual = f"{weights.dtype} of strides {weights.stride()}"
    check(fits, "paste: weights", "uint8 with packed rows", actual)


def _check_levels(name: str, levels: Tensor, base: Tensor) -> None:
    channels = base.shape[2]
    is_packed = levels.stride()[1:] == (channels, 1)
    fits = is_packed and levels.shape == base.shape and levels.dtype == torch.uint8
    allowed = f"uint8 of shape {tuple(base.shape)} with packed rows"
    actual = f"{described(levels)}, strides {levels.stride()}"
    check(fits, f"paste: {name}", allowed, actual)
