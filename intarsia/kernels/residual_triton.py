"""The Triton kernel of :mod:`intarsia.kernels.residual`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["has_other"])
def residual_kernel(
    h: tl.tensor,
    x: tl.tensor,
    bias: tl.tensor,
    other: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    channels: tl.tensor,
    has_other: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One program: ``BLOCK`` elements, channels fastest. ``has_other`` is 1 where ``other`` is added, else 0."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    element = first + tl.arange(0, BLOCK)
    inside = element < count
    # a 64-bit remainder for each element would take longer than reading it
    first_channel = (first % channels).to(tl.int32)
    channel = (first_channel + tl.arange(0, BLOCK)) % channels

    value = tl.load(h + element, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(x + element, mask=inside, other=0.0).to(tl.float32)

    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    reads_other = inside & (has_other != 0)
    shift += tl.load(other + channel, mask=reads_other, other=0.0).to(tl.float32)
    tl.store(out + element, value + shift, mask=inside)
