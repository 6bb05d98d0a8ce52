"""The Triton kernel of :mod:`intarsia.kernels.group_norm`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _block_moments(
    image: tl.tensor,
    channel: tl.tensor,
    used: tl.tensor,
    member: tl.tensor,
    added: tl.tensor,
    channels: tl.tensor,
    start: tl.tensor,
    end: tl.tensor,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Means and squared deviations ``[SLOTS]`` of the groups in rows ``start … end``.

    Each column keeps those of its own channel, one tile after the other (Chan et al. 1979); the channels of a group,
    which are of equal count, are joined last.
    """
    mean = tl.zeros([COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    seen = 0
    while seen < end - start:
        row = start + seen + tl.arange(0, ROWS)
        inside = (row < end)[:, None] & used[None, :]
        source = image + row.to(tl.int64)[:, None] * channels + channel[None, :]
        value = tl.load(source, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value + added[None, :], 0.0)

        count = tl.minimum(end - start - seen, ROWS)
        tile_mean = tl.sum(value, axis=0) / count
        centered = tl.where(inside, value - tile_mean[None, :], 0.0)
        tile_squares = tl.sum(centered * centered, axis=0)

        share = count / (seen + count)
        apart = tile_mean - mean
        mean += apart * share
        squares += tile_squares + apart * apart * seen * share
        seen += ROWS

    in_group = member & used[None, :]
    means = tl.where(in_group, mean[None, :], 0.0)
    group_mean = tl.sum(means, axis=1) / DEPTH

    apart_from_group = tl.where(in_group, mean[None, :] - group_mean[:, None], 0.0)
    rows_seen = (end - start).to(tl.float32)
    own_squares = tl.where(in_group, squares[None, :], 0.0)
    group_squares = tl.sum(own_squares + apart_from_group * apart_from_group * rows_seen, axis=1)
    return group_mean, group_squares


@triton.jit
def _map_moments(
    moments: tl.tensor,
    valid: tl.tensor,
    groups: tl.tensor,
    pixels: tl.tensor,
    blocks: tl.tensor,
    height: tl.tensor,
    DEPTH: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Those of the whole map, from all its blocks of ``height`` rows, always in the same order."""
    block = tl.arange(0, BLOCKS)
    inside = (block < blocks)[:, None] & valid[None, :]
    source = moments[None, :] + block[:, None] * 2 * groups
    rows_left = pixels - block * height
    rows = tl.maximum(tl.minimum(rows_left, height), 0).to(tl.float32)[:, None]

    means = tl.load(source, mask=inside, other=0.0)
    mean = tl.sum(means * (rows / pixels), axis=0)

    apart = tl.where(inside, means - mean[None, :], 0.0)
    squares = tl.load(source + groups, mask=inside, other=0.0)
    map_squares = tl.sum(squares + apart * apart * (rows * DEPTH), axis=0)
    return mean, map_squares


@triton.jit(do_not_specialize=["pixels", "tiles", "blocks", "has_add", "silu", "measures", "applies"])
def group_norm_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    add: tl.tensor,
    add_stride: tl.tensor,
    moments: tl.tensor,
    out: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    groups: tl.tensor,
    tiles: tl.tensor,
    blocks: tl.tensor,
    eps: tl.tensor,
    has_add: tl.tensor,
    silu: tl.tensor,
    measures: tl.tensor,
    applies: tl.tensor,
    DEPTH: tl.constexpr,
    GROUPS: tl.constexpr,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """One program: a row block, ``tiles`` tiles high, of ``GROUPS`` groups. ``moments`` is ``[B, blocks, 2, groups]``.

    ``has_add``, ``silu``, ``measures`` and ``applies`` are 0 or 1. A small map is measured and normalized in one
    launch, a large one in two.
    """
    block = tl.program_id(0)
    batch = tl.program_id(2).to(tl.int64)
    first_group = tl.program_id(1) * GROUPS
    column = tl.arange(0, COLUMNS)
    channel = first_group * DEPTH + column
    used = (column < GROUPS * DEPTH) & (channel < channels)

    slot = tl.arange(0, SLOTS)
    group = first_group + slot
    valid = (slot < GROUPS) & (group < groups)
    member = (column[None, :] // DEPTH) == slot[:, None]

    height = ROWS * tiles
    start = block * height
    end = tl.minimum(start + height, pixels)
    image = x + batch * pixels * channels
    image_moments = moments + tl.program_id(2) * blocks * 2 * groups + group
    image_add = add + batch * add_stride
    added = tl.load(image_add + channel, mask=used & (has_add != 0), other=0.0).to(tl.float32)

    mean = tl.zeros([SLOTS], tl.float32)
    squares = tl.zeros([SLOTS], tl.float32)
    if measures != 0:
        mean, squares = _block_moments(image, channel, used, member, added, channels, start, end, DEPTH, COLUMNS, ROWS)
        if applies == 0:
            tl.store(image_moments + block * 2 * groups, mean, mask=valid)
            tl.store(image_moments + (block * 2 + 1) * groups, squares, mask=valid)

    if applies != 0:
        if measures == 0:
            mean, squares = _map_moments(image_moments, valid, groups, pixels, blocks, height, DEPTH, BLOCKS)
        variance = squares / (pixels * DEPTH)
        inverse_std = 1.0 / tl.sqrt(variance + eps)

        # from groups back to channels, and all of it into one multiplication and one addition
        gain = tl.sum(tl.where(member, inverse_std[:, None], 0.0), axis=0)
        center = tl.sum(tl.where(member, mean[:, None], 0.0), axis=0)
        gain *= tl.load(weight + channel, mask=used, other=0.0).to(tl.float32)
        shift = tl.load(bias + channel, mask=used, other=0.0).to(tl.float32)

        while start < end:
            row = start + tl.arange(0, ROWS)
            inside = (row < end)[:, None] & used[None, :]
            offset = row.to(tl.int64)[:, None] * channels + channel[None, :]
            value = tl.load(image + offset, mask=inside, other=0.0).to(tl.float32)
            value = (value + (added - center)[None, :]) * gain[None, :] + shift[None, :]
            if silu != 0:
                value = value / (1.0 + tl.exp(-value))
            tl.store(out + batch * pixels * channels + offset, value, mask=inside)
            start += ROWS
