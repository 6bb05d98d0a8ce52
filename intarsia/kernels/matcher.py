"""Which tokens become one: each source's most similar destination, and which sources are the most similar.

Written out, the similarities of a 1024² image's tokens are 200 MB for each block. The kernels hold one tile of them
at a time, keeping the best so far; and a source's place in the order of all is how many are before it, counted,
where a sort would be a dozen launches. Then the tokens that belong together are averaged, by a product with a matrix of
ones and zeros of which, again, one tile at a time exists: the order of summation is fixed, so the bits are too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from intarsia.kernels.launch import ceil_div, check, described, launching, operation, power_of_two, runs_fused

__all__ = ["match", "match_reference", "merge", "merge_reference"]

LEAST_NORM = 1e-12
"""What a vector is divided by at least, as torch's ``normalize`` does."""

# Tiles of similarities: sources, destinations, and channels of one product.
_SOURCES, _DESTINATIONS, _CHANNELS = 64, 128, 64
# Sources of one count, and others that they are compared with at once.
_RANKED, _COMPARED = 64, 64
# Destinations and channels of one mean, and sources that are searched at once.
_AVERAGED, _MEAN_CHANNELS, _SEARCHED = 32, 128, 64
# The least side of a product's tiles.
_MIN_CHANNELS = 16


def match_reference(
    x: Tensor, sources: Tensor, destinations: Tensor, merged: int, protected: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """By torch's own operations, in the dtype of ``x``; see :func:`match`."""
    similarity, nearest = _similarities(x, sources, destinations, protected)
    order = similarity.sort(dim=1, descending=True, stable=True).indices
    merging_sources = sources.gather(1, order[:, :merged])
    staying_sources = sources.gather(1, order[:, merged:])
    targets = nearest.gather(1, order[:, :merged])

    # those that are left: first the sources that stay, then the destinations
    lanes, tokens = len(sources), x.shape[1]
    unmerged = sources.shape[1] - merged
    places = torch.arange(tokens - merged, device=x.device).expand(lanes, -1)
    place = order.new_zeros(lanes, tokens)
    place.scatter_(1, staying_sources, places[:, :unmerged])
    place.scatter_(1, destinations, places[:, unmerged:])
    place.scatter_(1, merging_sources, unmerged + targets)

    ones = torch.ones_like(place, dtype=torch.float32)
    size = torch.zeros(lanes, tokens - merged, device=x.device, dtype=torch.float32)
    size.scatter_add_(1, place, ones)
    return place, size


def _similarities(x: Tensor, sources: Tensor, destinations: Tensor, protected: Tensor | None) -> tuple[Tensor, Tensor]:
    """How similar each source is to its best destination, ``[L, S]``, and which that is."""
    metric = _metric(x, len(sources))
    source_metric = _gather_tokens(metric, sources)
    destination_metric = _gather_tokens(metric, destinations)
    scores = source_metric @ destination_metric.mT

    if protected is not None:
        are_protected = protected.gather(1, destinations)
        scores = scores.masked_fill(are_protected[:, None], -torch.inf)
    similarity, nearest = scores.max(dim=2)

    if protected is not None:
        are_protected = protected.gather(1, sources)
        similarity = similarity.masked_fill(are_protected, -torch.inf)
    return similarity, nearest


def _metric(x: Tensor, lanes: int) -> Tensor:
    """``[L, N, branches*C]``: unit vectors of both branches, concatenated: their products are sums of cosines."""
    unit = F.normalize(x, dim=2)
    by_lane = unit.view(lanes, -1, *unit.shape[1:])
    return by_lane.transpose(1, 2).flatten(2)


def _gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """``[L, N, C]`` and ``[L, n]`` → ``[L, n, C]``."""
    channels = x.shape[2]
    return x.gather(1, index[..., None].expand(-1, -1, channels))


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
        x: ``[B, N, C]`` float16, bfloat16 or float32, contiguous; each lane has ``B / L`` samples,
            its guidance branches.
        sources, destinations: int64 ``[L, S]`` and ``[L, D]``, contiguous; together every token once.
        merged: how many sources disappear, at most S.
        protected: bool ``[L, N]``, contiguous: True is neither merged nor merged into, as long as others suffice.
        fused: None takes the kernels on CUDA (and meta), the reference on a CPU.

    Returns:
        - place: int64 ``[L, N]``, each token's index among those that are left: sources in the order of their
          similarity, then the destinations.
        - size: float32 ``[L, N - merged]``, how many tokens each of those stands for.

    Raises:
        BackendError: a shape, dtype or layout is another, or triton is missing.
    """
    if not runs_fused(fused, x):
        return match_reference(x, sources, destinations, merged, protected)

    _check_indices(x, sources, destinations, merged)
    if protected is not None:
        _check_protected(protected, (len(sources), x.shape[1]))
    place, size = _match(x, sources, destinations, merged, protected)
    return place, size


def _check_indices(x: Tensor, sources: Tensor, destinations: Tensor, merged: int) -> None:
    lanes, source_count = sources.shape
    check(x.is_contiguous(), "match: x", "contiguous", f"of strides {x.stride()}")
    check(len(x) % lanes == 0, "match: the batch", f"a multiple of {lanes} lanes", len(x))
    check(0 <= merged <= source_count, "match: merged", f"0 … {source_count}", merged)

    for name, index in (("sources", sources), ("destinations", destinations)):
        fits = index.dtype == torch.int64 and index.is_contiguous() and len(index) == lanes
        check(fits, f"match: {name}", f"contiguous int64 of {lanes} rows", described(index))


def _check_protected(protected: Tensor, shape: tuple[int, int]) -> None:
    fits = protected.dtype == torch.bool and protected.is_contiguous() and protected.shape == shape
    check(fits, "match: protected", f"contiguous bool of shape {shape}", described(protected))


def _empty_places_and_sizes(
    x: Tensor, sources: Tensor, destinations: Tensor, merged: int, protected: Tensor | None
) -> tuple[Tensor, Tensor]:
    lanes, tokens = len(sources), x.shape[1]
    place = sources.new_empty(lanes, tokens)
    size = x.new_empty(lanes, tokens - merged, dtype=torch.float32)
    return place, size


@operation(
    "(Tensor x, Tensor sources, Tensor destinations, SymInt merged, Tensor? protected) -> (Tensor, Tensor)",
    _empty_places_and_sizes,
)
def _match(
    x: Tensor, sources: Tensor, destinations: Tensor, merged: int, protected: Tensor | None
) -> tuple[Tensor, Tensor]:
    place, size = _empty_places_and_sizes(x, sources, destinations, merged, protected)
    size.fill_(1.0)
    similarity, nearest = _nearest(x, sources, destinations, protected)
    _launch_rank(
        similarity=similarity,
        nearest=nearest,
        sources=sources,
        destinations=destinations,
        place=place,
        size=size,
    )
    return place, size


def _nearest(x: Tensor, sources: Tensor, destinations: Tensor, protected: Tensor | None) -> tuple[Tensor, Tensor]:
    """How similar each source is to its best destination, float32 ``[L, S]``, and which that is, int64."""
    lanes, source_count = sources.shape
    batch, tokens, channels = x.shape
    similarity = x.new_empty(lanes, source_count, dtype=torch.float32)
    nearest = sources.new_empty(lanes, source_count)

    tile_channels = _tile_channels(channels, _CHANNELS)
    grid = (ceil_div(source_count, _SOURCES), lanes)
    with launching("match", x):
        from intarsia.kernels.matcher_triton import nearest_kernel

        nearest_kernel[grid](
            x=x,
            sources=sources,
            destinations=destinations,
            protected=sources if protected is None else protected.view(torch.uint8),
            similarity=similarity,
            nearest=nearest,
            tokens=tokens,
            channels=channels,
            source_count=source_count,
            destination_count=destinations.shape[1],
            SOURCES=_SOURCES,
            DESTINATIONS=_DESTINATIONS,
            CHANNELS=tile_channels,
            BRANCHES=batch // lanes,
            CHANNEL_TILES=ceil_div(channels, tile_channels),
            PROTECTS=protected is not None,
            num_warps=8,
        )
    return similarity, nearest


def _tile_channels(channels: int, most: int) -> int:
    return min(most, max(_MIN_CHANNELS, power_of_two(channels)))


def _launch_rank(
    *, similarity: Tensor, nearest: Tensor, sources: Tensor, destinations: Tensor, place: Tensor, size: Tensor
) -> None:
    """The most similar sources merge: places of all tokens, and sizes of those that are left."""
    lanes, source_count = sources.shape
    destination_count = destinations.shape[1]
    tokens = place.shape[1]
    source_tiles = ceil_div(source_count, _RANKED)
    destination_tiles = ceil_div(destination_count, _RANKED)

    grid = (source_tiles + destination_tiles, lanes)
    with launching("match", similarity):
        from intarsia.kernels.matcher_triton import rank_kernel

        rank_kernel[grid](
            similarity=similarity,
            nearest=nearest,
            sources=sources,
            destinations=destinations,
            place=place,
            size=size,
            tokens=tokens,
            source_count=source_count,
            destination_count=destination_count,
            merged=tokens - size.shape[1],
            source_tiles=source_tiles,
            BLOCK=_RANKED,
            COMPARED=_COMPARED,
        )


def merge_reference(x: Tensor, place: Tensor, size: Tensor) -> Tensor:
    """By torch's own operations, in float32; see :func:`merge`."""
    wide = x.float()
    sums = torch.zeros(*size.shape, x.shape[2], device=x.device, dtype=torch.float32)
    if x.is_cuda:
        # scatter_add_ adds in whatever order its threads arrive; this sorts first, so the bits are the same
        lanes = torch.arange(len(x), device=x.device)[:, None]
        sums.index_put_((lanes, place), wide, accumulate=True)
    else:
        sums.scatter_add_(1, place[..., None].expand_as(x), wide)

    means = sums / size[..., None]
    return means.to(x.dtype)


def merge(
    x: Tensor, place: Tensor, size: Tensor, sources: Tensor, destinations: Tensor, *, fused: bool | None = None
) -> Tensor:
    """Means of the tokens that have the same place, each group summed in a fixed order.

    Args:
        x: ``[B, N, C]`` float16, bfloat16 or float32, contiguous.
        place, size, sources, destinations: as in :func:`match`; ``B`` is a multiple of their ``L`` rows.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Returns:
        ``[B, N - merged, C]``, contiguous, dtype of ``x``.

    Raises:
        BackendError: ``x`` is not contiguous, or triton is missing.
    """
    branches = len(x) // len(place)
    if not runs_fused(fused, x):
        place = place.repeat_interleave(branches, 0)
        size = size.repeat_interleave(branches, 0)
        return merge_reference(x, place, size)

    check(x.is_contiguous(), "merge: x", "contiguous", f"of strides {x.stride()}")
    means: Tensor = _merge(x, place, size, sources, destinations)
    return means


def _empty_merged(x: Tensor, place: Tensor, size: Tensor, *_: object) -> Tensor:
    return x.new_empty(len(x), size.shape[1], x.shape[2])


@operation("(Tensor x, Tensor place, Tensor size, Tensor sources, Tensor destinations) -> Tensor", _empty_merged)
def _merge(x: Tensor, place: Tensor, size: Tensor, sources: Tensor, destinations: Tensor) -> Tensor:
    out = _empty_merged(x, place, size)
    batch, tokens, channels = x.shape
    source_count = sources.shape[1]
    destination_count = destinations.shape[1]
    source_tiles = ceil_div(source_count, _SEARCHED)
    destination_tiles = ceil_div(destination_count, _AVERAGED)
    tile_channels = _tile_channels(channels, _MEAN_CHANNELS)

    grid = (destination_tiles + source_tiles, ceil_div(channels, tile_channels), batch)
    with launching("merge", x):
        from intarsia.kernels.matcher_triton import merge_kernel

        merge_kernel[grid](
            x=x,
            place=place,
            size=size,
            sources=sources,
            destinations=destinations,
            out=out,
            tokens=tokens,
            channels=channels,
            source_count=source_count,
            destination_count=destination_count,
            unmerged=size.shape[1] - destination_count,
            destination_tiles=destination_tiles,
            BRANCHES=batch // len(place),
            DESTINATIONS=_AVERAGED,
            SOURCES=_SEARCHED,
            CHANNELS=tile_channels,
        )
    return out
