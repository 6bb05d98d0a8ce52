"""GroupNorm, LayerNorm and GEGLU against float64."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
from torch.nn import functional as F

import intarsia.kernels.group_norm as group_norms
from intarsia.errors import BackendError
from intarsia.kernels.geglu import geglu, geglu_reference
from intarsia.kernels.group_norm import Norm, group_norm, group_norm_reference
from intarsia.kernels.layer_norm import add_layer_norm, add_layer_norm_reference, layer_norm, layer_norm_reference
from intarsia.kernels.residual import residual, residual_reference
from tests.kernels.rounding import assert_rounded

LAST = torch.channels_last
FLOAT16, BFLOAT16, FLOAT32 = torch.float16, torch.bfloat16, torch.float32


def random(*shape: int, dtype: torch.dtype = FLOAT32, device: str = "cpu", seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(device)


def exact_group_norm(x: torch.Tensor, norm: Norm, add: torch.Tensor | None) -> torch.Tensor:
    wide = x.double().cpu() if add is None else x.double().cpu() + add.double().cpu()[:, :, None, None]
    wide = F.group_norm(wide, norm.groups, norm.weight.double().cpu(), norm.bias.double().cpu(), norm.eps)
    return F.silu(wide) if norm.silu else wide


# channels, groups, height, width, dtype; what is special about it
MAPS = [
    (320, 32, 5, 7, FLOAT16),  # 10 channels a group, 12 groups of a chunk, the last chunk of 8
    (320, 32, 8, 7, BFLOAT16),  # several tiles in one launch
    (320, 32, 16, 15, BFLOAT16),  # two launches, a block for each tile
    (40, 4, 30, 21, FLOAT32),  # two launches, a last block of one partial tile
    (60, 2, 19, 17, FLOAT16),  # two launches, 30 channels a group
    (2560, 32, 2, 3, BFLOAT16),  # 80 channels a group
    (640, 32, 1, 1, FLOAT32),  # a single place
    (7, 7, 3, 5, FLOAT16),  # one channel a group
    (130, 1, 4, 3, FLOAT32),  # one group, wider than a chunk
]


@pytest.mark.every(4)
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "time and silu"])
@pytest.mark.parametrize(("channels", "groups", "height", "width", "dtype"), MAPS)
def test_group_norm(guard, device, channels, groups, height, width, dtype, extras):
    x = guard.holding(random(2, channels, height, width, dtype=dtype, device=device) * 2 + 1, LAST)
    weights = [random(channels, dtype=dtype, device=device, seed=seed) for seed in (1, 2)]
    weight, bias = (guard.holding(tensor) for tensor in weights)
    norm = Norm(groups=groups, weight=weight, bias=bias, eps=1e-5, silu=extras)
    # a slice of something wider, as the packed time embedding is
    wide = guard.holding(random(2, channels + 9, dtype=dtype, device=device, seed=3))
    add = wide[:, 4 : 4 + channels] if extras else None
    actual = group_norm(x, norm, add, fused=True)
    assert actual.is_contiguous(memory_format=LAST)
    assert actual.dtype == dtype
    # values to 10 in float32, some roundings in a row; silu's exponential has 2 units
    assert_rounded(actual, exact_group_norm(x, norm, add), 1e-5)
    assert_rounded(group_norm_reference(x, norm, add), exact_group_norm(x, norm, add), 1e-5)


@pytest.mark.parametrize(
    ("side", "channels"),
    [(64, 320), (64, 640), (64, 960), (32, 640), (32, 1280), (32, 1920), (16, 640), (16, 1280), (16, 2560)],
)
def test_group_norm_has_programs_for_a_large_gpu(side, channels):
    """The maps of an SD1.5 step, of a guided pair at 512 x 512; an H100 has 132 multiprocessors."""
    grid = group_norms._tiling(torch.Size([2, channels, side, side]), 32).grid
    assert math.prod(grid) >= 96, grid


def test_group_norm_of_blocks_of_several_tiles(guard, device, monkeypatch):
    monkeypatch.setattr(group_norms, "_MAX_BLOCKS", 3)
    x = guard.holding(random(1, 128, 31, 11, device=device), LAST)  # 341 places: 4, 4 and 3 tiles of 32
    norm = Norm(groups=32, weight=random(128, device=device, seed=1), bias=random(128, device=device, seed=2))
    actual = group_norm(x, norm, fused=True)
    assert_rounded(actual, exact_group_norm(x, norm, None), 1e-5)
    assert torch.equal(actual, group_norm(x, norm, fused=True))


@pytest.mark.parametrize("height", [7, 9, 40])
def test_group_norm_of_values_far_from_zero(guard, device, height):
    """Squares minus squared mean would lose the variance of 1 beside 1e6 in float32: an error near 1e-1."""
    x = guard.holding(random(1, 12, height, 9, device=device) + 1000, LAST)
    norm = Norm(groups=3, weight=torch.ones(12, device=device), bias=torch.zeros(12, device=device))
    # a mean of 1000 has a spacing of 6e-5
    assert_rounded(group_norm(x, norm, fused=True), exact_group_norm(x, norm, None), 4e-4)


@pytest.mark.parametrize(
    ("rows", "width", "dtype"),
    [(3, 320, FLOAT16), (7, 1280, BFLOAT16), (5, 2048, FLOAT16), (9, 77, FLOAT32), (1, 1, FLOAT32)],
)
def test_layer_norm(guard, device, rows, width, dtype):
    x = guard.holding(random(rows, 2, width, dtype=dtype, device=device) * 3 + 20)
    weight, bias = (guard.holding(random(width, dtype=dtype, device=device, seed=seed)) for seed in (1, 2))
    exact = F.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-5).cpu()
    # a mean of 20 has a spacing of 2e-6
    assert_rounded(layer_norm(x, weight, bias, fused=True), exact, 2e-5)
    assert_rounded(layer_norm_reference(x, weight, bias), exact, 2e-5)


@pytest.mark.parametrize(
    ("rows", "width", "dtype"), [(3, 320, FLOAT16), (7, 1280, BFLOAT16), (9, 77, FLOAT32), (1, 1, FLOAT32)]
)
def test_add_layer_norm(guard, device, rows, width, dtype):
    x = guard.holding(random(rows, 2, width, dtype=dtype, device=device) * 3 + 20)
    delta = guard.holding(random(rows, 2, width, dtype=dtype, device=device, seed=3))
    weight, bias = (guard.holding(random(width, dtype=dtype, device=device, seed=seed)) for seed in (1, 2))
    exact = x.double() + delta.double()
    normed = F.layer_norm(exact, (width,), weight.double(), bias.double(), 1e-5).cpu()
    for actual in (
        add_layer_norm(x, delta, weight, bias, fused=True),
        add_layer_norm_reference(x, delta, weight, bias),
    ):
        # a sum of 30 has a spacing of 2e-6, and so has its mean
        assert_rounded(actual[0], exact.cpu(), 2e-6)
        assert_rounded(actual[1], normed, 2e-5)


@pytest.mark.parametrize(
    ("channels", "height", "width", "dtype"),
    [(320, 5, 7, FLOAT16), (30, 3, 13, BFLOAT16), (1, 9, 1, FLOAT32), (70, 4, 4, FLOAT32)],
)
@pytest.mark.parametrize("both", [False, True])
def test_residual(guard, device, channels, height, width, dtype, both):
    maps = [random(3, channels, height, width, dtype=dtype, device=device, seed=seed) * 4 for seed in (0, 1)]
    h, x = (guard.holding(each, LAST) for each in maps)
    bias, other = (guard.holding(random(channels, dtype=dtype, device=device, seed=seed)) for seed in (2, 3))
    shift = bias.double() + other.double() if both else bias.double()
    exact = (h.double() + x.double() + shift[:, None, None]).cpu()
    given = (h, x, bias, other if both else None)
    actual = residual(*given, fused=True)
    assert actual.is_contiguous(memory_format=LAST)
    # sums of about 16 in float32, three roundings
    assert_rounded(actual, exact, 4e-6)
    assert_rounded(residual_reference(*given), exact, 4e-6)


@pytest.mark.parametrize(
    ("rows", "width", "dtype"), [(2, 1280, FLOAT16), (3, 77, BFLOAT16), (5, 1, FLOAT32), (2, 1030, FLOAT32)]
)
def test_geglu(guard, device, rows, width, dtype):
    packed = guard.holding(random(rows, 2, 2 * width, dtype=dtype, device=device) * 3)
    value, gate = packed.double().cpu().chunk(2, dim=-1)
    exact = value * F.gelu(gate)
    assert_rounded(geglu(packed, fused=True), exact, 1e-5)
    assert_rounded(geglu_reference(packed), exact, 1e-5)


def test_nothing_to_do(guard, device):
    norm = Norm(groups=2, weight=torch.ones(4, device=device), bias=torch.zeros(4, device=device))
    assert geglu(torch.empty(0, 8, device=device), fused=True).shape == (0, 4)
    none = torch.empty(0, 4, device=device)
    assert layer_norm(none, norm.weight, norm.bias, fused=True).shape == (0, 4)
    assert [each.shape for each in add_layer_norm(none, none, norm.weight, norm.bias, fused=True)] == [(0, 4)] * 2
    empty = torch.zeros(0, 4, 2, 2, device=device).to(memory_format=LAST)
    assert group_norm(empty, norm, fused=True).shape == (0, 4, 2, 2)
    assert residual(empty, empty, norm.bias, fused=True).shape == (0, 4, 2, 2)


@pytest.mark.parametrize("name", ["group_norm", "layer_norm", "add_layer_norm", "residual", "geglu"])
def test_traced_shapes_are_right(device, name):
    """torch's own check of a custom operation: schema, and what it says of shapes and strides without running."""
    x = random(2, 8, 3, 5, device=device).to(memory_format=LAST)
    weight, tokens = random(8, device=device), random(2, 3, 8, device=device)
    given = {
        "group_norm": (x, weight, weight, random(2, 12, device=device)[:, 2:10], 4, 1e-5, True),
        "layer_norm": (tokens, weight, weight, 1e-5),
        "add_layer_norm": (tokens, tokens + 1, weight, weight, 1e-5),
        "residual": (x, x + 1, weight, None),
        "geglu": (tokens,),
    }
    made = getattr(torch.ops.intarsia, name).default
    torch.library.opcheck(made, given[name], test_utils=("test_schema", "test_faketensor"))


def test_other_layouts_are_refused(device):
    norm = Norm(groups=2, weight=torch.ones(4, device=device), bias=torch.zeros(4, device=device))
    x = torch.zeros(1, 4, 3, 3, device=device).to(memory_format=LAST)
    with pytest.raises(BackendError, match="group_norm: x must be in channels_last"):
        group_norm(x.contiguous(), norm, fused=True)
    with pytest.raises(BackendError, match="group_norm: weight must be"):
        group_norm(x, Norm(groups=2, weight=norm.weight[:3], bias=norm.bias), fused=True)
    with pytest.raises(BackendError, match="groups must be a divisor of 4 channels, not 3"):
        group_norm(x, Norm(groups=3, weight=norm.weight, bias=norm.bias), fused=True)
    with pytest.raises(BackendError, match="group_norm: add must be"):
        group_norm(x, norm, torch.zeros(1, 5, device=device), fused=True)
    with pytest.raises(BackendError, match="layer_norm: x must be contiguous"):
        layer_norm(torch.zeros(4, 6, device=device).T, norm.weight, norm.bias, fused=True)
    with pytest.raises(BackendError, match="layer_norm: bias must be"):
        layer_norm(torch.zeros(6, 4, device=device), norm.weight, norm.bias[:2], fused=True)
    tokens = torch.zeros(4, 4, device=device)
    with pytest.raises(BackendError, match="layer_norm: delta must be contiguous"):
        add_layer_norm(tokens, tokens[:3], norm.weight, norm.bias, fused=True)
    with pytest.raises(BackendError, match="residual: x must be"):
        residual(x, x.contiguous(), norm.bias, fused=True)
    with pytest.raises(BackendError, match="residual: bias must be"):
        residual(x, x, norm.bias[:3], fused=True)
    with pytest.raises(BackendError, match="geglu: packed must be contiguous"):
        geglu(torch.zeros(4, 6, device=device).T, fused=True)
    with pytest.raises(BackendError, match="last dimension of packed must be even, not 5"):
        geglu(torch.zeros(4, 5, device=device), fused=True)
