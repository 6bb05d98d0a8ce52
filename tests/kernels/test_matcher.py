"""Token matching and merging against the plain ones in float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.errors import BackendError
from intarsia.kernels.matcher import match, match_reference, merge, merge_reference
from tests.kernels.guarding import Guard
from tests.kernels.rounding import assert_rounded

FLOAT16, BFLOAT16, FLOAT32 = torch.float16, torch.bfloat16, torch.float32


def random(*shape: int, dtype: torch.dtype = FLOAT32, device: str = "cpu", seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(device)


def need_products(dtype: torch.dtype, device: str) -> None:
    if dtype == BFLOAT16 and device == "cpu":
        pytest.skip("Triton's interpreter takes the bits of bfloat16 for integers in products")


def split(
    guard: Guard, lanes: int, tokens: int, ends: int, device: str, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources and destinations in any order, as no cell of an image would have them."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(tokens, generator=generator) for _ in range(lanes)]).to(device)
    return guard.holding(order[:, ends:]), guard.holding(order[:, :ends])


def assert_matches(
    actual: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor,
    sources: torch.Tensor,
    destinations: torch.Tensor,
    merged: int,
    protected: torch.Tensor | None = None,
) -> None:
    """Place for place what float64 says."""
    given = (x.double(), sources, destinations, merged, protected)
    place, size = match_reference(*(each.cpu() if torch.is_tensor(each) else each for each in given))
    assert torch.equal(actual[0].cpu(), place)
    assert torch.equal(actual[1].cpu(), size)


# lanes, branches, tokens, destinations, channels, merged, dtype; what is special about it
CASES = [
    (1, 1, 40, 10, 16, 15, FLOAT32),  # one tile
    (2, 2, 150, 37, 40, 60, FLOAT16),  # two tiles of sources, the second partial; two branches
    (1, 1, 220, 140, 140, 79, FLOAT16),  # two tiles of destinations, three of channels and two of means
    (3, 1, 97, 70, 70, 27, BFLOAT16),  # everything merges
    (1, 2, 300, 8, 24, 0, FLOAT32),  # nothing merges; two blocks of a rank
    (1, 3, 5, 1, 3, 2, FLOAT32),  # one destination
]


@pytest.mark.parametrize("has_protected", [False, True])
@pytest.mark.parametrize(("lanes", "branches", "tokens", "ends", "channels", "merged", "dtype"), CASES)
def test_match(guard, device, lanes, branches, tokens, ends, channels, merged, dtype, has_protected):
    need_products(dtype, device)
    x = guard.holding(random(lanes * branches, tokens, channels, dtype=dtype, device=device) * 3 + 1)
    sources, destinations = split(guard, lanes, tokens, ends, device)
    protected = None
    if has_protected:
        protected = guard.holding((random(lanes, tokens, device=device, seed=4) > 0.5).to(torch.uint8)).view(torch.bool)
        protected[:, destinations[:, 0]] = False
    actual = match(x, sources, destinations, merged, protected, fused=True)
    assert_matches(actual, x, sources, destinations, merged, protected)


def test_of_equal_similarities_the_first_is_taken(guard, device):
    """Tokens of five kinds at right angles: similarities are 0 or 1 exactly, nearly all of them equal to others."""
    kinds = torch.randint(5, (2, 90), generator=torch.Generator().manual_seed(0))
    x = guard.holding((torch.eye(5)[kinds] * 2).to(device))
    sources, destinations = split(guard, 2, 90, 70, device)
    actual = match(x, sources, destinations, 11, fused=True)
    assert_matches(actual, x, sources, destinations, 11)
    equal = match(torch.ones_like(x), sources, destinations, 11, fused=True)
    first = destinations[:, :1]
    assert torch.equal(equal[0].gather(1, sources[:, :11]), equal[0].gather(1, first).expand(-1, 11))
    assert bool((equal[1].gather(1, equal[0].gather(1, first)) == 12).all())


def test_tokens_without_length_are_like_nothing(guard, device):
    x = guard.holding(torch.zeros(1, 20, 8, device=device))
    actual = match(x, *split(guard, 1, 20, 6, device), 5, fused=True)
    assert sorted(actual[0][0].unique().tolist()) == list(range(15))
    assert float(actual[1].sum()) == 20


@pytest.mark.parametrize(("lanes", "branches", "tokens", "ends", "channels", "merged", "dtype"), CASES)
def test_merge(guard, device, lanes, branches, tokens, ends, channels, merged, dtype):
    need_products(dtype, device)
    x = guard.holding(random(lanes * branches, tokens, channels, dtype=dtype, device=device) * 3)
    sources, destinations = split(guard, lanes, tokens, ends, device)
    place, size = match(random(lanes, tokens, 8, device=device, seed=2), sources, destinations, merged, fused=True)
    actual = merge(x, place, size, sources, destinations, fused=True)
    assert torch.equal(actual, merge(x, place, size, sources, destinations, fused=True))
    exact = x.new_zeros(len(x), tokens - merged, channels, dtype=torch.float64).cpu()
    for sample, own in enumerate(x.double().cpu()):
        lane = sample // branches
        exact[sample].index_add_(0, place[lane].cpu(), own)
        exact[sample] /= size[lane].double().cpu()[:, None]
    # sums of at most sixty numbers of about 3 in float32
    assert_rounded(actual, exact, 1e-5)
    each = [kept.repeat_interleave(branches, 0) for kept in (place, size)]
    assert_rounded(merge_reference(x, *each), exact, 1e-5)


def test_a_sample_is_merged_alone_as_in_a_batch(guard, device):
    x = guard.holding(random(4, 60, 24, dtype=FLOAT16, device=device))
    sources, destinations = split(guard, 2, 60, 15, device)
    place, size = match(x, sources, destinations, 30, fused=True)
    together = merge(x, place, size, sources, destinations, fused=True)
    one = (sources[1:], destinations[1:])
    alone = match(x[2:], *one, 30, fused=True)
    assert torch.equal(alone[0], place[1:])
    assert torch.equal(merge(x[2:], *alone, *one, fused=True), together[2:])


def test_traced_shapes_are_right(device):
    x, sources = random(2, 12, 16, device=device), torch.arange(9, device=device)[None]
    destinations = torch.arange(9, 12, device=device)[None]
    utils = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.intarsia.match.default, (x, sources, destinations, 4, None), test_utils=utils)
    place, size = match(x, sources, destinations, 4, fused=True)
    torch.library.opcheck(torch.ops.intarsia.merge.default, (x, place, size, sources, destinations), test_utils=utils)


def test_other_layouts_are_refused(device):
    x, index = torch.zeros(2, 8, 4, device=device), torch.arange(4, device=device)[None]
    with pytest.raises(BackendError, match="match: x must be contiguous"):
        match(x.mT, index, index, 1, fused=True)
    with pytest.raises(BackendError, match=r"match: merged must be 0 … 4, not 5"):
        match(x, index, index, 5, fused=True)
    with pytest.raises(BackendError, match="match: the batch must be a multiple of 3 lanes"):
        match(x, index.expand(3, -1), index, 1, fused=True)
    with pytest.raises(BackendError, match="match: destinations must be contiguous int64"):
        match(x, index, index.int(), 1, fused=True)
    with pytest.raises(BackendError, match="match: protected must be contiguous bool"):
        match(x, index, index, 1, torch.zeros(1, 8, device=device), fused=True)
    with pytest.raises(BackendError, match="merge: x must be contiguous"):
        merge(x.mT, index, index, index, index, fused=True)
