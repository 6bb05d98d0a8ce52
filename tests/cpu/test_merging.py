"""Token merging: weights, masks, seeds, and what it does to images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="makes its model with diffusers: pip install 'intarsia[torch]'")

from hypothesis import example, given, settings
from hypothesis import strategies as st

import intarsia
from intarsia.backends.token_regions import draw_choices, find_regions
from intarsia.backends.torch.regions import level_mergings, upload_regions
from intarsia.models.attention import SelfAttention
from intarsia.models.merging import LevelMerging, Matcher
from intarsia.token_merging import TokenMerging
from tests.noise_request import noise_request
from tests.random_model import write_model, write_registry

SIZE = 128


def tokens(batch: int, count: int, channels: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, channels, generator=torch.Generator().manual_seed(seed))


def destinations(lanes: int, cells: int) -> torch.Tensor:
    return torch.randint(4, (lanes, cells), generator=torch.Generator().manual_seed(3))


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((4, 16, 16), dtype=np.float32)


def choices_of(seed: int, rows: int, regions: Sequence[Any]) -> list[torch.Tensor]:
    drawn = draw_choices(noise(seed), rows, [region.cells for region in regions])
    return [torch.from_numpy(choice) for choice in drawn]


def matching(
    x: torch.Tensor, size: tuple[int, int], merged: int, choice: torch.Tensor, protected: torch.Tensor | None = None
) -> Any:
    height, width = size
    level = LevelMerging(height=height, width=width, merged=merged, choice=choice, protected=protected)
    return Matcher(level).match(x)


# Weights.


@pytest.mark.parametrize("channels", [40, 64, 20])  # heads of 20, 32 and 10: none, one and no multiple of eight
@torch.no_grad()
def test_weighted_merging_of_equal_tokens_changes_nothing(channels):
    """Equal keys share what each of them got, so one that counts as often is the same attention."""
    height, width = 8, 12
    cells = tokens(2, (height // 2) * (width // 2), channels).view(2, height // 2, width // 2, channels)
    x = cells.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    attention = SelfAttention(channels, 2)
    expected = attention(x)
    found = matching(x, (height, width), 50, destinations(2, 24))
    assert float(found.size.max()) > 1
    out = found.unmerge(attention(found.merge(x), found.log_size))
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=0)  # float32 sums in another order
    unweighted = found.unmerge(attention(found.merge(x)))
    assert (unweighted - expected).abs().max() > 1e-3


@torch.no_grad()
def test_weights_are_what_an_attention_mask_would_add():
    attention, x = SelfAttention(24, 3), tokens(2, 10, 24)
    size = torch.tensor([[1.0, 2, 3, 1, 1, 9, 4, 1, 1, 2], [5.0, 1, 1, 1, 2, 2, 1, 1, 7, 1]])
    query, key, value = (part.view(2, 10, 3, 8).transpose(1, 2) for part in (x @ attention.qkv.T).chunk(3, dim=2))
    logits = query @ key.mT / 8**0.5 + size.log()[:, None, None]
    expected = attention.to_out((logits.softmax(dim=3) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, size.log()), expected, atol=2e-6, rtol=0)


def test_sizes_count_every_token_once():
    found = matching(tokens(3, 15 * 9), (15, 9), 70, destinations(3, 28))
    assert torch.equal(found.size.sum(dim=1), torch.full((3,), 15.0 * 9))
    assert torch.equal(found.size, torch.stack([row.bincount(minlength=15 * 9 - 70) for row in found.place]).float())


# Masks.


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(2, 17), st.integers(2, 17)),
    ratio=st.sampled_from([0.1, 0.25, 0.5, 0.65, 0.75]),
    masked=st.floats(0, 1),
    seed=st.integers(0, 1000),
    blocky=st.booleans(),
)
@example(size=(16, 16), ratio=0.5, masked=0.25, seed=0, blocky=True)  # 6 × 6 protected of 16 × 16
@example(size=(9, 17), ratio=0.75, masked=0.0, seed=1, blocky=False)
def test_protected_tokens_are_never_merged(size, ratio, masked, seed, blocky):
    height, width = size
    rng = np.random.default_rng(seed)
    mask = rng.random(size) < masked
    if blocky:
        mask = np.zeros(size, bool)
        mask[: int(height * masked), : int(width * masked)] = True
    near = np.pad(mask, 1)
    near = np.any([near[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    touched = near.copy()
    for row, column in np.ndindex(height // 2, width // 2):
        cell = (slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
        touched[cell] = near[cell].any()
    step = max(1, height * width // 16)
    has_cells = not touched[: height // 2 * 2, : width // 2 * 2].all()
    expected = int((~touched).sum() * ratio) // step * step * has_cells
    regions = find_regions(TokenMerging(ratio), [size], mask)
    assert [region.merged for region in regions] == [expected] * (expected > 0)
    for region in regions:
        protected = torch.from_numpy(region.protected)
        np.testing.assert_array_equal(region.protected, touched.ravel())
        assert (region.protected >= near.ravel()).all(), "the mask and one token around it"
        assert region.merged <= ratio * (~region.protected).sum()
        assert region.merged % max(1, height * width // 16) == 0
        (choice,) = choices_of(seed, 1, [region])
        x = tokens(1, height * width, seed=seed)
        found = matching(x, size, region.merged, choice, protected[None])
        assert (found.size[0][found.place[0]][protected] == 1).all()
        back = found.unmerge(found.merge(x))
        assert torch.equal(back[0, protected], x[0, protected])
        assert found.size.shape == (1, height * width - region.merged)


def test_nothing_is_merged_where_the_mask_leaves_too_little():
    assert find_regions(TokenMerging(0.75), [(8, 8)], np.ones((8, 8))) == ()
    assert find_regions(TokenMerging(0.0), [(8, 8)], np.zeros((8, 8))) == ()
    lonely = np.ones((9, 9))
    lonely[8, 8] = 0
    assert find_regions(TokenMerging(0.75), [(9, 9)], lonely) == ()
    assert [r.merged for r in find_regions(TokenMerging(0.5), [(8, 8)], np.zeros((8, 8)))] == [32]


def test_levels_see_the_mask_at_their_own_size():
    mask = np.zeros((16, 16))
    mask[0, 0] = 1
    first, second = find_regions(TokenMerging(0.5, levels=2), [(16, 16), (8, 8), (4, 4)], mask)
    assert (int(first.protected.sum()), int(second.protected.sum())) == (4, 4)
    assert (first.merged, second.merged) == (112, 28)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ratio": 0.76}, "token_merging must be between 0 and 0.75, not 0.76"),
        ({"ratio": -0.1}, "token_merging must be between 0 and 0.75"),
        ({"ratio": float("nan")}, "token_merging must be between 0 and 0.75"),
        ({"levels": 0}, "token_merging_levels must be at least 1, not 0"),
        ({"reuse": 0}, "token_merging_reuse must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range(fields, words):
    with pytest.raises(intarsia.RequestError, match=words):
        TokenMerging(**fields)


# Seeds, lanes, blocks.


def test_choices_follow_the_lanes_own_noise():
    regions = find_regions(TokenMerging(0.5, levels=2), [(16, 16), (8, 8)], np.zeros((16, 16)))
    first = choices_of(1, 5, regions)
    assert [tuple(drawn.shape) for drawn in first] == [(5, 64), (5, 16)]
    assert all(torch.equal(a, b) for a, b in zip(first, choices_of(1, 5, regions), strict=True))
    assert not torch.equal(first[0], choices_of(2, 5, regions)[0])
    assert not torch.equal(first[0][0], first[0][1])
    assert set(first[0].flatten().tolist()) == {0, 1, 2, 3}


def test_lanes_side_by_side_match_as_alone():
    masks = np.zeros((2, 12, 12))
    masks[0][2:6, 2:6] = 1
    masks[1][6:10, 4:8] = 1  # equally many cells elsewhere
    host_regions = [find_regions(TokenMerging(0.5), [(12, 12)], mask) for mask in masks]
    choices = [[drawn[0] for drawn in choices_of(i, 1, host_regions[i])] for i in range(2)]
    regions = [upload_regions(lane, torch.device("cpu")) for lane in host_regions]
    x = tokens(4, 144)  # two lanes of two guided branches each
    (both,) = level_mergings(regions, choices)
    together = Matcher(both).match(x)
    for i in range(2):
        (level,) = level_mergings([regions[i]], [choices[i]])
        alone = Matcher(level).match(x[2 * i : 2 * i + 2])
        assert alone.place.shape == (1, 144), "guided branches share one matching"
        assert torch.equal(together.place[i], alone.place[0])
        own = slice(2 * i, 2 * i + 2)
        assert torch.equal(together.merge(x)[own], alone.merge(x[own]))
        assert torch.equal(together.unmerge(together.merge(x))[own], alone.unmerge(alone.merge(x[own])))


def test_reuse_counts_blocks():
    level = LevelMerging(height=8, width=8, merged=20, choice=torch.zeros(1, 16, dtype=torch.long), reuse=2)
    matcher = Matcher(level)
    made = [matcher.match(tokens(1, 64, seed=seed)) for seed in range(3)]
    assert made[0] is made[1]
    assert not torch.equal(made[1].place, made[2].place)


# Images.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    entry = (write_model(folder / "nine", 9, "tiny"), "sd15-inpaint")
    path = write_registry(folder / "weights.toml", nine=entry, deep=entry)
    path.write_text(path.read_text() + "token_merging_levels = 2\ntoken_merging_reuse = 3\n")  # of the last, deep
    return path


@pytest.fixture(scope="module")
def engine(models: Path) -> Iterator[intarsia.Engine]:
    with intarsia.Engine("torch", "cpu", models) as opened:
        yield opened


@pytest.fixture
def ask() -> Callable[..., intarsia.InpaintRequest]:
    def make(**fields: Any) -> intarsia.InpaintRequest:
        return noise_request(SIZE, slice(24, 60), slice(30, 70), **{"steps": 4, "scheduler": "euler_a", **fields})

    return make


def bits(result: intarsia.Result) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in result.generated]


def test_images_are_the_same_alone_or_batched_with_others(engine, ask):
    small = np.zeros((SIZE, SIZE), np.uint8)
    small[100:, :20] = 255
    requests = [
        ask(token_merging=0.5, samples=2),
        ask(token_merging=0.5, mask_image=small, seed=9),
        ask(token_merging=0.75),
        ask(token_merging=0.5, guidance_scale=1.0),
        ask(),
    ]
    alone = [bits(engine.run(request)) for request in requests]
    together = [bits(ticket.result()) for ticket in [engine.submit(request) for request in requests]]
    assert alone == together
    assert len({images[0] for images in alone}) == len(requests)


def test_lanes_of_other_masks_are_evaluated_apart_where_lanes_are_batched(engine, models, ask):
    small = np.zeros((SIZE, SIZE), np.uint8)
    small[100:, :20] = 255
    requests = [ask(token_merging=0.5, samples=2), ask(token_merging=0.5, mask_image=small, seed=9)]
    alone = [np.asarray(engine.run(request).generated[0], np.int16) for request in requests]
    with intarsia.Engine("torch", "cpu", models, deterministic=False) as together:
        tickets = [together.submit(request) for request in requests]
        batched = [np.asarray(ticket.result().generated[0], np.int16) for ticket in tickets]
    for one, other in zip(alone, batched, strict=True):
        assert np.abs(one - other).max() <= 1  # float32 in another order: at most one level after rounding


def test_a_full_mask_merges_nothing_and_says_so(engine, ask):
    everything = np.full((SIZE, SIZE), 255, np.uint8)
    plain = engine.run(ask(mask_image=everything))
    merged = engine.run(ask(mask_image=everything, token_merging=0.75))
    assert bits(plain) == bits(merged)
    assert any("mask leaves too little" in warning for warning in merged.warnings)


def test_levels_and_reuse_come_from_the_models_entry(engine, ask):
    results = [engine.run(ask(model=name, token_merging=True)) for name in ("nine", "deep")]
    merging = [result.plan.token_merging for result in results]
    assert [(each.levels, each.reuse) for each in merging] == [(1, 1), (2, 3)]
    assert bits(results[0]) != bits(results[1])
    assert engine.run(ask(model="deep")).plan.token_merging == TokenMerging(ratio=0.0, levels=1, reuse=1)


def test_results_say_what_was_merged(engine, ask):
    result = engine.run(ask(token_merging=True))
    assert (result.meta["token_merging"], result.runtime.token_merging) == (0.5, True)
    assert not any("token merging" in warning for warning in result.warnings)
    assert replace(result.plan, token_merging=TokenMerging()).group != result.plan.group
