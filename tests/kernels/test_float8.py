"""Layers that write e4m3, and the product of two such matrices, against float64."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
from torch.nn import functional as F

from intarsia.backends.torch import precision
from intarsia.errors import BackendError
from intarsia.kernels.float8 import FLOAT8, Float8, quantize, quantize_reference, scaled_product, scaled_reference
from intarsia.kernels.geglu import geglu_float8, geglu_float8_reference
from intarsia.kernels.layer_norm import layer_norm_float8, layer_norm_float8_reference
from tests.gpu.needs import need_float8
from tests.kernels.interpreter import round_e4m3_as_torch
from tests.kernels.rounding import assert_rounded
from tests.kernels.test_layers import BRAIN, FULL, HALF, random

# rows, width, dtype; what is special about it
ROWS = [
    (3, 320, HALF),  # several rows in a program
    (9, 77, FULL),  # an odd width
    (2, 1280, BRAIN),
    (2, 5120, HALF),  # wider than a tile
    (1, 1, FULL),
]


@pytest.fixture(autouse=True)
def _e4m3(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's rounding mended, or a GPU that multiplies in e4m3."""
    if device == "cuda":
        need_float8()
    else:
        round_e4m3_as_torch(monkeypatch)


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def product_dtype(device: str, request: pytest.FixtureRequest) -> torch.dtype:
    """The dtype in which a product is written: float32 on a CPU; on a GPU bfloat16, and float16 where torch can."""
    dtype = getattr(torch, request.param)
    if device == "cpu" and dtype != torch.float32:
        pytest.skip("the reference, which a CPU runs, is in float32 before it is rounded")
    if device == "cuda" and dtype == torch.float32:
        pytest.skip("torch writes products in e4m3 in half precision alone on a GPU")
    if device == "cuda" and precision.product_dtype(torch.device("cuda"), dtype) != dtype:
        pytest.skip(f"torch writes products in e4m3 in bfloat16 alone on {torch.cuda.get_device_name()}")
    return dtype


def assert_quantized(found: Float8, exact: torch.Tensor, noise: float) -> None:
    """``found`` is ``exact`` (float64) computed in float32 with an error of ``noise``, scaled and rounded once.

    A scale is its row's largest value over 448. e4m3 has four bits of precision, its rounding is off by a sixteenth at
    most, and below 2^-6, where numbers are evenly spaced, by 2^-10.
    """
    values, scale = (each.double().cpu() for each in found)
    assert found.values.dtype == FLOAT8
    assert found.values.is_contiguous()
    assert found.scale.dtype == FULL
    assert found.scale.is_contiguous()
    largest = exact.abs().amax(-1, keepdim=True)
    assert ((scale * 448 - largest).abs() <= largest * 1e-6 + noise + 2e-12).all()
    error = (values * scale - exact).abs()
    allowed = exact.abs() / 16 + scale * 2**-10
    # an eighth of what is allowed to a value at the edge between two: noise may push it over
    assert (error <= allowed + 1.13 * noise + 1e-12).all(), f"largest error {(error - allowed).max():.2e}"
    # and rounded to the nearest, which halves it on the mean
    assert error.mean() <= 0.5 * allowed.mean() + noise + 1e-12


@pytest.mark.parametrize(("rows", "width", "dtype"), ROWS)
def test_quantize(guard, device, rows, width, dtype):
    x = guard.holding(random(rows, 2, width, dtype=dtype, device=device) * 3)
    for found in (quantize(x, fused=True), quantize_reference(x)):
        assert found.values.shape == x.shape
        assert found.scale.shape == (rows, 2, 1)
        assert_quantized(found, x.double().cpu(), 0.0)


def test_rows_are_scaled_each_by_itself(device):
    x = random(4, 48, device=device) * torch.tensor([[1e-6], [1.0], [0.0], [3e4]], device=device)
    for found in (quantize(x, fused=True), quantize_reference(x)):
        assert_quantized(found, x.double().cpu(), 0.0)
        assert not found.values[2].float().any()
        assert torch.isfinite(found.scale).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, in the interpreter
def test_what_is_not_finite_stays_so(device):
    x = random(3, 40, dtype=HALF, device=device)
    x[0, 7], x[1, 7] = math.nan, math.inf
    for found in (quantize(x, fused=True), quantize_reference(x)):
        wide = found.values.float() * found.scale
        assert not torch.isfinite(wide[0]).all()
        assert not torch.isfinite(wide[1]).any()
        assert torch.isfinite(wide[2]).all()


@pytest.mark.parametrize("adds", [False, True], ids=["alone", "added"])
@pytest.mark.parametrize(("rows", "width", "dtype"), ROWS[:4])
def test_layer_norm(guard, device, rows, width, dtype, adds):
    x = guard.holding(random(rows, 2, width, dtype=dtype, device=device) * 3 + 20)
    delta = guard.holding(random(rows, 2, width, dtype=dtype, device=device, seed=3)) if adds else None
    weight, bias = (guard.holding(random(width, dtype=dtype, device=device, seed=seed)) for seed in (1, 2))
    exact = x.double() if delta is None else x.double() + delta.double()
    normed = F.layer_norm(exact, (width,), weight.double(), bias.double(), 1e-5).cpu()
    for total, found in (
        layer_norm_float8(x, delta, weight, bias, fused=True),
        layer_norm_float8_reference(x, delta, weight, bias),
    ):
        # a sum of 30 has a spacing of 2e-6, and so has its mean
        assert_rounded(total, exact.cpu(), 2e-6)
        assert_quantized(found, normed, 2e-5)


@pytest.mark.parametrize(("rows", "width", "dtype"), ROWS)
def test_geglu(guard, device, rows, width, dtype):
    packed = guard.holding(random(rows, 2, 2 * width, dtype=dtype, device=device) * 3)
    value, gate = packed.double().cpu().chunk(2, dim=-1)
    for found in (geglu_float8(packed, fused=True), geglu_float8_reference(packed)):
        assert found.values.shape == (rows, 2, width)
        assert_quantized(found, value * F.gelu(gate), 1e-5)


@pytest.mark.parametrize(("rows", "inner", "outer"), [(2, 320, 960), (7, 64, 32), (33, 1280, 48), (1, 16, 16)])
@pytest.mark.parametrize("biased", [False, True])
def test_product(product_dtype, device, rows, inner, outer, biased):
    x, weight = quantize_reference(random(2, rows, inner, device=device)), random(outer, inner, device=device, seed=1)
    weight = quantize_reference(weight * torch.logspace(-3, 3, outer, device=device)[:, None])
    bias = random(outer, dtype=product_dtype, device=device, seed=2) if biased else None
    wide = [each.values.double().cpu() * each.scale.double().cpu() for each in (x, weight)]
    exact = wide[0] @ wide[1].T + (bias.double().cpu() if biased else 0.0)
    # a GPU adds up with 14 bits at least (DeepSeek-V3, section 3.5.2): relative to what all summands come to
    noise = (wide[0].abs() @ wide[1].abs().T) * (2**-13 if device == "cuda" else 2**-20)
    for found in (scaled_product(x, weight, bias, product_dtype), scaled_reference(x, weight, bias)):
        assert found.shape == (2, rows, outer)
        assert found.is_contiguous()
        rounding = exact.abs() * torch.finfo(found.dtype).eps
        assert ((found.double().cpu() - exact).abs() <= rounding + noise + 1e-6).all()


def test_nothing_to_do(device):
    none, ones = torch.empty(0, 8, device=device), torch.ones(8, device=device)
    assert [each.shape for each in quantize(none, fused=True)] == [(0, 8), (0, 1)]
    assert [each.shape for each in geglu_float8(none, fused=True)] == [(0, 4), (0, 1)]
    total, found = layer_norm_float8(none, none, ones, ones, fused=True)
    assert [each.shape for each in (total, *found)] == [(0, 8), (0, 8), (0, 1)]


@pytest.mark.parametrize("name", ["quantize", "layer_norm_float8", "add_layer_norm_float8", "geglu_float8"])
def test_tracers_are_told_the_right_shapes(device, name):
    """torch's own check of a custom operation: schema, and what it says of shapes and strides without running."""
    weight, tokens = random(8, device=device), random(2, 3, 8, device=device)
    given = {
        "quantize": (tokens,),
        "layer_norm_float8": (tokens, weight, weight, 1e-5),
        "add_layer_norm_float8": (tokens, tokens + 1, weight, weight, 1e-5),
        "geglu_float8": (tokens,),
    }
    made = getattr(torch.ops.intarsia, name).default
    torch.library.opcheck(made, given[name], test_utils=("test_schema", "test_faketensor"))


def test_other_layouts_are_refused(device):
    tokens, ones = torch.zeros(4, 6, device=device), torch.ones(6, device=device)
    with pytest.raises(BackendError, match="quantize: x must be contiguous"):
        quantize(tokens.T, fused=True)
    with pytest.raises(BackendError, match="quantize: the last dimension of x must be at most 16384, not 16400"):
        quantize(torch.zeros(1, 16400, device=device), fused=True)
    with pytest.raises(BackendError, match="layer_norm: delta must be contiguous"):
        layer_norm_float8(tokens, tokens[:3], ones, ones, fused=True)
    with pytest.raises(BackendError, match="geglu: packed must be contiguous"):
        geglu_float8(tokens.T, fused=True)
    with pytest.raises(BackendError, match="half the last dimension of packed must be at most 16384, not 16400"):
        geglu_float8(torch.zeros(1, 32800, device=device), fused=True)
