"""The Triton kernels of :mod:`intarsia.kernels.matcher`."""

from __future__ import annotations

import triton
import triton.language as tl

from intarsia.kernels.matcher import LEAST_NORM

_LEAST_NORM = tl.constexpr(LEAST_NORM)


@triton.jit
def _similarities(
    sample: tl.tensor,
    sources: tl.tensor,
    destinations: tl.tensor,
    source_valid: tl.tensor,
    destination_valid: tl.tensor,
    channels: tl.tensor,
    SOURCES: tl.constexpr,
    DESTINATIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNEL_TILES: tl.constexpr,
) -> tl.tensor:
    """Cosines ``[SOURCES, DESTINATIONS]`` of tokens of one sample."""
    product = tl.zeros([SOURCES, DESTINATIONS], tl.float32)
    source_squares = tl.zeros([SOURCES], tl.float32)
    destination_squares = tl.zeros([DESTINATIONS], tl.float32)

    for tile in range(CHANNEL_TILES):
        channel = tile * CHANNELS + tl.arange(0, CHANNELS)
        inside = channel < channels
        row = sample + sources[:, None] * channels + channel[None, :]
        column = sample + destinations[None, :] * channels + channel[:, None]
        left = tl.load(row, mask=source_valid[:, None] & inside[None, :], other=0.0)
        right = tl.load(column, mask=destination_valid[None, :] & inside[:, None], other=0.0)
        product = tl.dot(left, right, product, input_precision="ieee")

        wide_left = left.to(tl.float32)
        wide_right = right.to(tl.float32)
        source_squares += tl.sum(wide_left * wide_left, axis=1)
        destination_squares += tl.sum(wide_right * wide_right, axis=0)

    source_norm = tl.sqrt(source_squares)
    destination_norm = tl.sqrt(destination_squares)
    source_scale = 1.0 / tl.maximum(source_norm, _LEAST_NORM)
    destination_scale = 1.0 / tl.maximum(destination_norm, _LEAST_NORM)
    return product * source_scale[:, None] * destination_scale[None, :]


@triton.jit(do_not_specialize=["tokens", "source_count", "destination_count"])
def nearest_kernel(
    x: tl.tensor,
    sources: tl.tensor,
    destinations: tl.tensor,
    protected: tl.tensor,
    similarity: tl.tensor,
    nearest: tl.tensor,
    tokens: tl.tensor,
    channels: tl.tensor,
    source_count: tl.tensor,
    destination_count: tl.tensor,
    SOURCES: tl.constexpr,
    DESTINATIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BRANCHES: tl.constexpr,
    CHANNEL_TILES: tl.constexpr,
    PROTECTS: tl.constexpr,
) -> None:
    """One program: the best destination of ``SOURCES`` sources of one lane, one tile of destinations at a time."""
    lane = tl.program_id(1).to(tl.int64)
    source = tl.program_id(0) * SOURCES + tl.arange(0, SOURCES)
    source_valid = source < source_count
    source_token = tl.load(sources + lane * source_count + source, mask=source_valid, other=0)
    best = tl.full([SOURCES], float("-inf"), tl.float32)
    best_destination = tl.zeros([SOURCES], tl.int64)

    begin = 0
    while begin < destination_count:
        destination = begin + tl.arange(0, DESTINATIONS)
        valid = destination < destination_count
        token = tl.load(destinations + lane * destination_count + destination, mask=valid, other=0)
        score = tl.zeros([SOURCES, DESTINATIONS], tl.float32)
        for branch in tl.static_range(BRANCHES):
            sample = x + (lane * BRANCHES + branch) * tokens * channels
            score += _similarities(
                sample, source_token, token, source_valid, valid, channels, SOURCES, DESTINATIONS, CHANNELS,
                CHANNEL_TILES,
            )  # fmt: skip

        usable = valid
        if PROTECTS:
            usable &= tl.load(protected + lane * tokens + token, mask=valid, other=1) == 0
        score = tl.where(usable[None, :], score, float("-inf"))

        # of equal ones the first
        tile_best = tl.max(score, axis=1)
        is_best = score == tile_best[:, None]
        candidates = tl.where(is_best, destination[None, :], destination_count - 1)
        first = tl.min(candidates, axis=1)
        is_better = tile_best > best
        best_destination = tl.where(is_better, first.to(tl.int64), best_destination)
        best = tl.where(is_better, tile_best, best)
        begin += DESTINATIONS

    if PROTECTS:
        is_protected = tl.load(protected + lane * tokens + source_token, mask=source_valid, other=0) != 0
        best = tl.where(is_protected, float("-inf"), best)
    tl.store(similarity + lane * source_count + source, best, mask=source_valid)
    tl.store(nearest + lane * source_count + source, best_destination, mask=source_valid)


@triton.jit(do_not_specialize=["tokens", "source_count", "destination_count", "merged", "source_tiles"])
def rank_kernel(
    similarity: tl.tensor,
    nearest: tl.tensor,
    sources: tl.tensor,
    destinations: tl.tensor,
    place: tl.tensor,
    size: tl.tensor,
    tokens: tl.tensor,
    source_count: tl.tensor,
    destination_count: tl.tensor,
    merged: tl.tensor,
    source_tiles: tl.tensor,
    BLOCK: tl.constexpr,
    COMPARED: tl.constexpr,
) -> None:
    """One program: the places of ``BLOCK`` sources of one lane, or of as many destinations."""
    lane = tl.program_id(1).to(tl.int64)
    unmerged = source_count - merged
    if tl.program_id(0) < source_tiles:
        source = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        valid = source < source_count
        score = tl.load(similarity + lane * source_count + source, mask=valid, other=float("-inf"))

        # a source's rank is how many of the others come before it
        rank = tl.zeros([BLOCK], tl.int32)
        begin = 0
        while begin < source_count:
            other = begin + tl.arange(0, COMPARED)
            other_valid = other < source_count
            other_score = tl.load(
                similarity + lane * source_count + other, mask=other_valid, other=float("-inf")
            )[None, :]  # fmt: skip
            is_tied_before = (other_score == score[:, None]) & (other[None, :] < source[:, None])
            is_before = (other_score > score[:, None]) | is_tied_before
            counted = (is_before & other_valid[None, :]).to(tl.int32)
            rank += tl.sum(counted, axis=1)
            begin += COMPARED

        merges = valid & (rank < merged)
        target = unmerged + tl.load(nearest + lane * source_count + source, mask=valid, other=0)
        token = tl.load(sources + lane * source_count + source, mask=valid, other=0)
        new_place = tl.where(merges, target, (rank - merged).to(tl.int64))
        tl.store(place + lane * tokens + token, new_place, mask=valid)
        # whole numbers: exact in any order
        tl.atomic_add(size + lane * (tokens - merged) + target, 1.0, mask=merges)
    else:
        destination = (tl.program_id(0) - source_tiles) * BLOCK + tl.arange(0, BLOCK)
        valid = destination < destination_count
        token = tl.load(destinations + lane * destination_count + destination, mask=valid, other=0)
        tl.store(place + lane * tokens + token, (unmerged + destination).to(tl.int64), mask=valid)


@triton.jit
def _add_sources(
    total: tl.tensor,
    sample: tl.tensor,
    place: tl.tensor,
    sources: tl.tensor,
    target: tl.tensor,
    inside: tl.tensor,
    channels: tl.tensor,
    source_count: tl.tensor,
    SOURCES: tl.constexpr,
) -> tl.tensor:
    """``total`` and all sources whose place is ``target``, of one lane and sample: the same order every time."""
    begin = 0
    while begin < source_count:
        source = begin + tl.arange(0, SOURCES)
        valid = source < source_count
        token = tl.load(sources + source, mask=valid, other=0)
        source_place = tl.load(place + token, mask=valid, other=-1)
        member = source_place[None, :] == target[:, None]

        # what merged elsewhere is not even read
        is_member = tl.max(member.to(tl.int32), axis=0) > 0
        joins = valid & is_member
        value = tl.load(sample + token[:, None] * channels, mask=joins[:, None] & inside, other=0.0)
        total = tl.dot(member.to(value.dtype), value, total, input_precision="ieee")
        begin += SOURCES
    return total


@triton.jit(do_not_specialize=["tokens", "source_count", "destination_count", "unmerged", "destination_tiles"])
def merge_kernel(
    x: tl.tensor,
    place: tl.tensor,
    size: tl.tensor,
    sources: tl.tensor,
    destinations: tl.tensor,
    out: tl.tensor,
    tokens: tl.tensor,
    channels: tl.tensor,
    source_count: tl.tensor,
    destination_count: tl.tensor,
    unmerged: tl.tensor,
    destination_tiles: tl.tensor,
    BRANCHES: tl.constexpr,
    DESTINATIONS: tl.constexpr,
    SOURCES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """One program: some channels, of one sample, of ``DESTINATIONS`` destinations with all that merged into them, or of
    ``SOURCES`` sources that did not merge."""
    batch = tl.program_id(2).to(tl.int64)
    lane = batch // BRANCHES
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    channel_valid = (channel < channels)[None, :]
    sample = x + batch * tokens * channels + channel[None, :]
    result = out + batch * (unmerged + destination_count) * channels + channel[None, :]

    # a name in both branches would have to be of one type and shape
    if tl.program_id(0) < destination_tiles:
        destination = tl.program_id(0) * DESTINATIONS + tl.arange(0, DESTINATIONS)
        destination_valid = destination < destination_count
        slot = unmerged + destination
        destination_token = tl.load(
            destinations + lane * destination_count + destination, mask=destination_valid, other=0
        )

        inside = destination_valid[:, None] & channel_valid
        total = tl.load(sample + destination_token[:, None] * channels, mask=inside, other=0.0).to(tl.float32)
        lane_place = place + lane * tokens
        lane_sources = sources + lane * source_count
        total = _add_sources(
            total, sample, lane_place, lane_sources, slot, channel_valid, channels, source_count, SOURCES
        )

        lane_size = size + lane * (unmerged + destination_count)
        count = tl.load(lane_size + slot, mask=destination_valid, other=1.0)
        mean = total / count[:, None]
        tl.store(result + slot[:, None] * channels, mean, mask=inside)
    else:
        source = (tl.program_id(0) - destination_tiles) * SOURCES + tl.arange(0, SOURCES)
        source_valid = source < source_count
        source_token = tl.load(sources + lane * source_count + source, mask=source_valid, other=0)
        source_place = tl.load(place + lane * tokens + source_token, mask=source_valid, other=0)

        stays = source_valid & (source_place < unmerged)
        stays = stays[:, None] & channel_valid
        value = tl.load(sample + source_token[:, None] * channels, mask=stays, other=0.0)
        tl.store(result + source_place[:, None] * channels, value, mask=stays)
