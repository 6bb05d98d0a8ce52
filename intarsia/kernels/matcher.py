"""Which tokens become one: each source's most similar destination, and which sources are the most similar.

Written out, the similarities of a 1024² picture's tokens are 200 MB for each block. The kernels hold one tile of them
at a time, keeping the best so far; and a source's place in the order of all is how many are before it, counted,
where a sort would be a dozen launches. Then the tokens that belong together are averaged, by a product with a matrix of
ones and zeros of which, again, one tile at a time exists: the order of summation is fixed, so the bits are too.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted, operation, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["match", "match_reference", "merge", "merge_reference"]

# Tiles of similarities: sources, destinations, and channels of one product.
_SOURCES, _DESTINATIONS, _CHANNELS = 64, 128, 64
# Sources of one count, and others that they are compared with at once.
_RANKED, _COLUMNS = 64, 64
# Destinations and channels of one mean, and sources that are looked through at once.
_TOGETHER, _WIDE, _LOOKED = 32, 128, 64


def match_reference(
    x: Tensor, sources: Tensor, destinations: Tensor, merged: int, protected: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """By torch's own operations, in the dtype of ``x``; see :func:`match`."""
    lanes, left = len(sources), sources.shape[1] - merged
    metric = _metric(x, lanes)
    scores = _pick(metric, sources) @ _pick(metric, destinations).mT
    if protected is not None:
        scores = scores.masked_fill(protected.gather(1, destinations)[:, None], -torch.inf)
    best, nearest = scores.max(dim=2)
    if protected is not None:
        best = best.masked_fill(protected.gather(1, sources), -torch.inf)
    order = best.sort(dim=1, descending=True, stable=True).indices
    gone, alone = order[:, :merged], order[:, merged:]
    places = torch.arange(left + destinations.shape[1], device=x.device).expand(lanes, -1)
    place = order.new_zeros(lanes, x.shape[1])
    place.scatter_(1, sources.gather(1, alone), places[:, :left])
    place.scatter_(1, destinations, places[:, left:])
    place.scatter_(1, sources.gather(1, gone), left + nearest.gather(1, gone))
    size = torch.zeros(lanes, x.shape[1] - merged, device=x.device, dtype=torch.float32)
    return place, size.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float32))


def _metric(x: Tensor, lanes: int) -> Tensor:
    """[L, N, halves*C]: unit vectors, the halves side by side, so that a product is the sum of their cosines."""
    unit = F.normalize(x, dim=2)
    return unit.view(lanes, -1, *unit.shape[1:]).transpose(1, 2).flatten(2)


def _pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def match(
    x: Tensor,
    sources: Tensor,
    destinations: Tensor,
    merged: int,
    protected: Tensor | None = None,
    *,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Bipartite soft matching (Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3).

    Similarity is the cosine, summed over the halves of a lane. Of equally similar destinations the first is taken, of
    equally similar sources the first ones merge. The kernel computes similarities in float32 of unrounded unit vectors.

    Args:
        x: ``[B, N, C]`` float16, bfloat16 or float32, contiguous; samples ``i * B / L …`` are the halves of lane i.
        sources, destinations: int64 ``[L, S]`` and ``[L, D]``, contiguous; together every token once.
        merged: how many sources disappear, at most S.
        protected: bool ``[L, N]``, contiguous: True is neither merged nor merged into, as long as others suffice.
        fused: None takes the kernels on CUDA (and meta), the reference on a CPU.

    Returns:
        - place: int64 ``[L, N]``, where each token stands among those that are left: sources in the order of their
          similarity, then the destinations.
        - size: float32 ``[L, N - merged]``, how many tokens each of those stands for.

    Raises:
        BackendError: a shape, dtype or layout is another, or triton is missing.
    """
    if not fused_wanted(fused, x):
        return match_reference(x, sources, destinations, merged, protected)
    lanes = len(sources)
    check(x.is_contiguous(), "match", "x", "contiguous", f"of strides {x.stride()}")
    check(len(x) % lanes == 0, "match", "the batch", f"a multiple of {lanes} lanes", len(x))
    check(0 <= merged <= sources.shape[1], "match", "merged", f"0 … {sources.shape[1]}", merged)
    for name, index in (("sources", sources), ("destinations", destinations)):
        fits = index.dtype == torch.int64 and index.is_contiguous() and len(index) == lanes
        check(fits, "match", name, f"contiguous int64 of {lanes} rows", f"{index.dtype} of shape {tuple(index.shape)}")
    if protected is not None:
        fits = protected.dtype == torch.bool and protected.is_contiguous() and protected.shape == (lanes, x.shape[1])
        found = f"{protected.dtype} of shape {tuple(protected.shape)}"
        check(fits, "match", "protected", f"contiguous bool of shape {(lanes, x.shape[1])}", found)
    place, size = _match(x, sources, destinations, merged, protected)
    return place, size


def _places_and_sizes(
    x: Tensor, sources: Tensor, destinations: Tensor, merged: int, protected: Tensor | None
) -> tuple[Tensor, Tensor]:
    lanes, left = len(sources), x.shape[1] - merged
    return sources.new_empty(lanes, x.shape[1]), x.new_empty(lanes, left, dtype=torch.float32)


@operation(
    "(Tensor x, Tensor sources, Tensor destinations, SymInt merged, Tensor? protected) -> (Tensor, Tensor)",
    _places_and_sizes,
)
def _match(
    x: Tensor, sources: Tensor, destinations: Tensor, merged: int, protected: Tensor | None
) -> tuple[Tensor, Tensor]:
    place, size = _places_and_sizes(x, sources, destinations, merged, protected)
    size.fill_(1.0)
    (lanes, count), ends, (tokens, channels) = sources.shape, destinations.shape[1], x.shape[1:]
    best, nearest = x.new_empty(lanes, count, dtype=torch.float32), sources.new_empty(lanes, count)
    shield = sources if protected is None else protected.view(torch.uint8)
    part = min(_CHANNELS, max(16, power_of_two(channels)))
    sizes = {"SOURCES": _SOURCES, "DESTINATIONS": _DESTINATIONS, "CHANNELS": part, "HALVES": len(x) // lanes}
    sizes |= {"PARTS": ceil_div(channels, part), "PROTECT": protected is not None}
    given = (x, sources, destinations, shield, best, nearest, tokens, channels, count, ends)
    _nearest.launch((ceil_div(count, _SOURCES), lanes), *given, **sizes, num_warps=8)
    tiles = ceil_div(count, _RANKED)
    grid = (tiles + ceil_div(ends, _RANKED), lanes)
    known = (best, nearest, sources, destinations, place, size, tokens, count, ends, merged, tiles)
    _rank.launch(grid, *known, BLOCK=_RANKED, COLUMNS=_COLUMNS)
    return place, size


def merge_reference(x: Tensor, place: Tensor, size: Tensor) -> Tensor:
    """By torch's own operations, in float32; see :func:`merge`."""
    sums = torch.zeros(*size.shape, x.shape[2], device=x.device, dtype=torch.float32)
    if x.is_cuda:
        # scatter_add_ adds in whatever order its threads arrive; this sorts first, so the bits are the same
        lanes = torch.arange(len(x), device=x.device)[:, None]
        sums.index_put_((lanes, place), x.float(), accumulate=True)
    else:
        sums.scatter_add_(1, place[..., None].expand_as(x), x.float())
    return (sums / size[..., None]).to(x.dtype)


def merge(
    x: Tensor, place: Tensor, size: Tensor, sources: Tensor, destinations: Tensor, *, fused: bool | None = None
) -> Tensor:
    """Means of the tokens that stand in one place, each group summed in a fixed order.

    Args:
        x: ``[B, N, C]`` float16, bfloat16 or float32, contiguous.
        place, size, sources, destinations: as in :func:`match`; ``B`` is a multiple of their ``L`` rows.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Returns:
        ``[B, N - merged, C]``, contiguous, dtype of ``x``.

    Raises:
        BackendError: ``x`` is not contiguous, or triton is missing.
    """
    halves = len(x) // len(place)
    if not fused_wanted(fused, x):
        return merge_reference(x, *(each.repeat_interleave(halves, 0) for each in (place, size)))
    check(x.is_contiguous(), "merge", "x", "contiguous", f"of strides {x.stride()}")
    made: Tensor = _merge(x, place, size, sources, destinations)
    return made


def _fewer(x: Tensor, place: Tensor, size: Tensor, *_: object) -> Tensor:
    return x.new_empty(len(x), size.shape[1], x.shape[2])


@operation("(Tensor x, Tensor place, Tensor size, Tensor sources, Tensor destinations) -> Tensor", _fewer)
def _merge(x: Tensor, place: Tensor, size: Tensor, sources: Tensor, destinations: Tensor) -> Tensor:
    out = _fewer(x, place, size)
    batch, tokens, channels = x.shape
    count, ends, left = sources.shape[1], destinations.shape[1], size.shape[1] - destinations.shape[1]
    wide = min(_WIDE, max(16, power_of_two(channels)))
    tiles = ceil_div(ends, _TOGETHER)
    grid = (tiles + ceil_div(count, _LOOKED), ceil_div(channels, wide), batch)
    given = (x, place, size, sources, destinations, out, tokens, channels, count, ends, left, tiles)
    sizes = {"HALVES": batch // len(place), "TOGETHER": _TOGETHER, "SOURCES": _LOOKED, "CHANNELS": wide}
    _average.launch(grid, *given, **sizes)
    return out


def _similarities(
    start: tl.tensor,
    sources: tl.tensor,
    destinations: tl.tensor,
    here: tl.tensor,
    there: tl.tensor,
    channels: tl.tensor,
    SOURCES: tl.constexpr,
    DESTINATIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PARTS: tl.constexpr,
) -> tl.tensor:
    """Cosines ``[SOURCES, DESTINATIONS]`` of the tokens of one sample, which begins at ``start``."""
    product = tl.zeros([SOURCES, DESTINATIONS], tl.float32)
    long = tl.zeros([SOURCES], tl.float32)
    wide = tl.zeros([DESTINATIONS], tl.float32)
    for part in range(PARTS):
        channel = part * CHANNELS + tl.arange(0, CHANNELS)
        row = start + sources[:, None] * channels + channel[None, :]
        column = start + destinations[None, :] * channels + channel[:, None]
        inside = channel < channels
        left = tl.load(row, mask=here[:, None] & inside[None, :], other=0.0)
        right = tl.load(column, mask=there[None, :] & inside[:, None], other=0.0)
        product = tl.dot(left, right, product, input_precision="ieee")
        long += tl.sum(left.to(tl.float32) * left.to(tl.float32), axis=1)
        wide += tl.sum(right.to(tl.float32) * right.to(tl.float32), axis=0)
    # 1e-12 is what torch's normalize divides by at least
    long = 1.0 / tl.maximum(tl.sqrt(long), 1e-12)
    wide = 1.0 / tl.maximum(tl.sqrt(wide), 1e-12)
    return product * long[:, None] * wide[None, :]


@partial(Kernel, general=("tokens", "count", "ends"), parts=(_similarities,))
def _nearest(
    x: tl.tensor,
    sources: tl.tensor,
    destinations: tl.tensor,
    protected: tl.tensor,
    best: tl.tensor,
    nearest: tl.tensor,
    tokens: tl.tensor,
    channels: tl.tensor,
    count: tl.tensor,
    ends: tl.tensor,
    SOURCES: tl.constexpr,
    DESTINATIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HALVES: tl.constexpr,
    PARTS: tl.constexpr,
    PROTECT: tl.constexpr,
) -> None:
    """One program: the best destination of ``SOURCES`` sources of one lane, one tile of destinations at a time."""
    lane = tl.program_id(1).to(tl.int64)
    source = tl.program_id(0) * SOURCES + tl.arange(0, SOURCES)
    here = source < count
    from_token = tl.load(sources + lane * count + source, mask=here, other=0)
    top = tl.full([SOURCES], float("-inf"), tl.float32)
    found = tl.zeros([SOURCES], tl.int64)
    begin = 0
    while begin < ends:
        end = begin + tl.arange(0, DESTINATIONS)
        there = end < ends
        to_token = tl.load(destinations + lane * ends + end, mask=there, other=0)
        score = tl.zeros([SOURCES, DESTINATIONS], tl.float32)
        for half in tl.static_range(HALVES):
            start = x + (lane * HALVES + half) * tokens * channels
            score += _similarities(
                start, from_token, to_token, here, there, channels, SOURCES, DESTINATIONS, CHANNELS, PARTS
            )
        usable = there
        if PROTECT:
            usable &= tl.load(protected + lane * tokens + to_token, mask=there, other=1) == 0
        score = tl.where(usable[None, :], score, float("-inf"))
        tile_top = tl.max(score, axis=1)
        first = tl.min(tl.where(score == tile_top[:, None], end[None, :], ends - 1), axis=1)
        better = tile_top > top
        found = tl.where(better, first.to(tl.int64), found)
        top = tl.where(better, tile_top, top)
        begin += DESTINATIONS
    if PROTECT:
        shielded = tl.load(protected + lane * tokens + from_token, mask=here, other=0) != 0
        top = tl.where(shielded, float("-inf"), top)
    tl.store(best + lane * count + source, top, mask=here)
    tl.store(nearest + lane * count + source, found, mask=here)


@partial(Kernel, general=("tokens", "count", "ends", "merged", "tiles"))
def _rank(
    best: tl.tensor,
    nearest: tl.tensor,
    sources: tl.tensor,
    destinations: tl.tensor,
    place: tl.tensor,
    size: tl.tensor,
    tokens: tl.tensor,
    count: tl.tensor,
    ends: tl.tensor,
    merged: tl.tensor,
    tiles: tl.tensor,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """One program: the places of ``BLOCK`` sources of one lane, or of as many destinations."""
    lane = tl.program_id(1).to(tl.int64)
    alone = count - merged
    if tl.program_id(0) < tiles:
        source = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        here = source < count
        own = tl.load(best + lane * count + source, mask=here, other=float("-inf"))
        before = tl.zeros([BLOCK], tl.int32)
        begin = 0
        while begin < count:
            other = begin + tl.arange(0, COLUMNS)
            theirs = tl.load(best + lane * count + other, mask=other < count, other=float("-inf"))[None, :]
            earlier = (theirs > own[:, None]) | ((theirs == own[:, None]) & (other[None, :] < source[:, None]))
            before += tl.sum((earlier & (other < count)[None, :]).to(tl.int32), axis=1)
            begin += COLUMNS
        gone = here & (before < merged)
        target = alone + tl.load(nearest + lane * count + source, mask=here, other=0)
        from_token = tl.load(sources + lane * count + source, mask=here, other=0)
        tl.store(place + lane * tokens + from_token, tl.where(gone, target, (before - merged).to(tl.int64)), mask=here)
        # whole numbers: exact in any order
        tl.atomic_add(size + lane * (tokens - merged) + target, 1.0, mask=gone)
    else:
        end = (tl.program_id(0) - tiles) * BLOCK + tl.arange(0, BLOCK)
        to_token = tl.load(destinations + lane * ends + end, mask=end < ends, other=0)
        tl.store(place + lane * tokens + to_token, (alone + end).to(tl.int64), mask=end < ends)


def _sums(
    total: tl.tensor,
    read: tl.tensor,
    place: tl.tensor,
    sources: tl.tensor,
    target: tl.tensor,
    inside: tl.tensor,
    channels: tl.tensor,
    count: tl.tensor,
    SOURCES: tl.constexpr,
) -> tl.tensor:
    """``total`` and all sources that stand in ``target``, of one lane and sample: the same order every time."""
    begin = 0
    while begin < count:
        source = begin + tl.arange(0, SOURCES)
        here = source < count
        token = tl.load(sources + source, mask=here, other=0)
        stands = tl.load(place + token, mask=here, other=-1)
        member = stands[None, :] == target[:, None]
        # what merged elsewhere is not even read
        joins = here & (tl.max(member.to(tl.int32), axis=0) > 0)
        value = tl.load(read + token[:, None] * channels, mask=joins[:, None] & inside, other=0.0)
        total = tl.dot(member.to(value.dtype), value, total, input_precision="ieee")
        begin += SOURCES
    return total


@partial(Kernel, general=("tokens", "count", "ends", "alone", "tiles"), parts=(_sums,))
def _average(
    x: tl.tensor,
    place: tl.tensor,
    size: tl.tensor,
    sources: tl.tensor,
    destinations: tl.tensor,
    out: tl.tensor,
    tokens: tl.tensor,
    channels: tl.tensor,
    count: tl.tensor,
    ends: tl.tensor,
    alone: tl.tensor,
    tiles: tl.tensor,
    HALVES: tl.constexpr,
    TOGETHER: tl.constexpr,
    SOURCES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """One program: some channels of ``TOGETHER`` destinations with all that merged into them, or of ``SOURCES`` sources
    that stayed alone, of one sample."""
    sample = tl.program_id(2).to(tl.int64)
    lane = sample // HALVES
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (channel < channels)[None, :]
    read = x + sample * tokens * channels + channel[None, :]
    write = out + sample * (alone + ends) * channels + channel[None, :]
    if tl.program_id(0) < tiles:
        end = tl.program_id(0) * TOGETHER + tl.arange(0, TOGETHER)
        there = end < ends
        token = tl.load(destinations + lane * ends + end, mask=there, other=0)
        total = tl.load(read + token[:, None] * channels, mask=there[:, None] & inside, other=0.0).to(tl.float32)
        own, theirs = place + lane * tokens, sources + lane * count
        total = _sums(total, read, own, theirs, alone + end, inside, channels, count, SOURCES)
        many = tl.load(size + lane * (alone + ends) + alone + end, mask=there, other=1.0)
        tl.store(write + (alone + end)[:, None] * channels, total / many[:, None], mask=there[:, None] & inside)
    else:
        single = (tl.program_id(0) - tiles) * SOURCES + tl.arange(0, SOURCES)
        listed = single < count
        from_token = tl.load(sources + lane * count + single, mask=listed, other=0)
        target = tl.load(place + lane * tokens + from_token, mask=listed, other=0)
        stays = (listed & (target < alone))[:, None] & inside
        kept = tl.load(read + from_token[:, None] * channels, mask=stays, other=0.0)
        tl.store(write + target[:, None] * channels, kept, mask=stays)
