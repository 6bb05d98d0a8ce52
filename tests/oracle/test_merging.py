"""Token merging against tomesd: weights and mask off, its random choice fixed or replayed, float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
tomesd = pytest.importorskip("tomesd", reason="needs tomesd: pip install 'intarsia[oracle]'")

from tomesd.merge import bipartite_soft_matching_random2d

from intarsia.models.merging import LevelMerging, Matcher
from tests.oracle.test_models import TOLERANCE, evaluate, inputs, pair, reference, worst

ONE_BLOCK = {
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D",) * 3,
    "mid_block_type": None,
}
SIZES = {"square": (16, 16), "oblong": (12, 20), "odd": (13, 21), "one row of cells": (3, 14)}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def level(size: tuple[int, int], ratio: float, choice: torch.Tensor) -> LevelMerging:
    """tomesd's settings at one resolution: nothing weighted, nothing protected."""
    merged = min(int(size[0] * size[1] * ratio), size[0] * size[1] - choice.shape[1])
    height, width = size
    return LevelMerging(height=height, width=width, merged=merged, choice=choice, weighted=False)


def corners(size: tuple[int, int], batch: int) -> torch.Tensor:
    return torch.zeros(batch, (size[0] // 2) * (size[1] // 2), dtype=torch.long)


def merged(ours: Any, given: tuple[Any, ...], levels: Any) -> torch.Tensor:
    sample, timesteps, hidden, added = given
    return ours(sample, ours.embed(timesteps, *added), ours.cross_kv(hidden), merging=levels)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_matching_merging_and_unmerging_as_tomesd(size, ratio):
    height, width = size
    x = torch.randn(2, height * width, 8, generator=torch.Generator().manual_seed(0))
    y = torch.randn(2, height * width, 5, generator=torch.Generator().manual_seed(1))
    merge, unmerge = bipartite_soft_matching_random2d(
        x, width, height, 2, 2, int(height * width * ratio), generator=torch.Generator().manual_seed(7)
    )
    drawn = torch.randint(4, (height // 2, width // 2, 1), generator=torch.Generator().manual_seed(7))
    choice = drawn.flatten().expand(2, -1)
    matching = Matcher(level(size, ratio, choice)).match(x)
    ours = matching.merge(y)
    assert ours.shape == merge(y).shape
    # the order among those that are left is of no meaning to attention: sorted, both are the same tokens
    assert worst(ours.sort(dim=1).values, merge(y).sort(dim=1).values) <= TOLERANCE
    assert worst(matching.unmerge(ours), unmerge(merge(y))) <= TOLERANCE
    assert worst(matching.unmerge(ours), y) > 0.1


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("size", [(16, 16), (12, 20), (13, 21)])
def test_unet_as_patched_diffusers(size, ratio):
    theirs, ours = pair({})
    given = inputs({}, size)
    plain = reference(theirs, *given)
    expected = reference(tomesd.apply_patch(theirs, ratio=ratio, use_rand=False), *given)
    out = merged(ours, given, [level(size, ratio, corners(size, 2))])
    assert worst(out, expected) <= TOLERANCE
    assert worst(expected, plain) > 100 * TOLERANCE


def test_two_levels_as_patched_diffusers():
    theirs, ours = pair({})
    given = inputs({}, (13, 21))
    assert ours.attention_sizes(13, 21) == [(13, 21), (7, 11), (4, 6)]
    levels = [level(size, 0.5, corners(size, 2)) for size in ours.attention_sizes(13, 21)[:2]]
    expected = reference(tomesd.apply_patch(theirs, ratio=0.5, max_downsample=2, use_rand=False), *given)
    assert worst(merged(ours, given, levels), expected) <= TOLERANCE


@pytest.mark.parametrize("size", [(16, 16), (13, 21)])
def test_random_destinations_as_patched_diffusers(size):
    """tomesd draws anew in each block from a fork of torch's generator; here a single block draws."""
    theirs, ours = pair(ONE_BLOCK)
    given = inputs(ONE_BLOCK, size)
    tomesd.apply_patch(theirs, ratio=0.5)
    torch.manual_seed(11)
    expected = reference(theirs, *given)
    drawn = torch.randint(4, (size[0] // 2, size[1] // 2, 1), generator=torch.Generator().manual_seed(11))
    out = merged(ours, given, [level(size, 0.5, drawn.flatten().expand(2, -1))])
    assert worst(out, expected) <= TOLERANCE
    assert worst(merged(ours, given, [level(size, 0.5, corners(size, 2))]), expected) > 100 * TOLERANCE


def test_no_merging_is_the_unmerged_path_bit_for_bit():
    _, ours = pair({})
    given = inputs({}, (12, 20))
    assert torch.equal(merged(ours, given, ()), evaluate(ours, *given))
