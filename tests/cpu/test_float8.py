"""Precision fp8: which products are in e4m3, what they give, and where it is refused. Simulated on a CPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from torch.nn import functional as F

import intarsia
from benchmarks.float8 import decibels, missed, paint_scene, summary
from benchmarks.op_count import count
from benchmarks.published import UNETS
from intarsia.backends.torch import precision as precisions
from intarsia.backends.torch.backend import TorchBackend
from intarsia.backends.torch.precision import product_dtype
from intarsia.kernels.float8 import FLOAT8
from intarsia.models.attention import AttentionInputs, TransformerBlock
from intarsia.models.float8 import in_float8
from intarsia.models.loading import load_pipeline_parts
from intarsia.models.unet import UNet
from tests.noise_request import noise_request

CPU, HALF, BRAIN = torch.device("cpu"), torch.float16, torch.bfloat16
PRODUCTS = ("attn1.float8", "attn2.to_q", "ff.net.0.proj", "ff.net.2")
SIZE = 128


def tiny() -> Any:
    return load_pipeline_parts(intarsia.Registry().find("intarsia-tiny").path)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """``x`` as e4m3 with a scale for each row has it, float64: four significant bits, a step of 2^-9 below 2^-6."""
    scale = x.abs().amax(-1, keepdim=True) / 448
    shrunk = x / scale
    step = 2.0 ** (torch.floor(torch.log2(shrunk.abs().clamp(min=2**-6))) - 3)
    return torch.round(shrunk / step) * step * scale


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(rounded(x), rounded(weight.double()), None if bias is None else bias.double())


def test_the_products_behind_norms_and_gates_are_in_e4m3_and_nothing_else():
    before = {name: tensor.clone() for name, tensor in tiny().unet.state_dict().items()}
    parts = in_float8(tiny(), torch.float32)
    assert (parts.precision, parts.precision_notes) == ("fp8", ())
    found = {name for name, tensor in parts.unet.named_parameters() if tensor.dtype == FLOAT8}
    blocks = [name for name, module in parts.unet.named_modules() if isinstance(module, TransformerBlock)]
    assert found == {f"{block}.{product}.weight" for block in blocks for product in PRODUCTS}
    assert not any(name.endswith("qkv") for name, _ in parts.unet.named_parameters()), "half precision is given back"
    assert parts.unet.state_dict().keys() - before.keys() == {
        name.replace("weight", "scale") for name in quantized(blocks)
    }
    for name, tensor in parts.unet.state_dict().items():
        if tensor.dtype == FLOAT8:
            wanted = before[name].double()
            held = tensor.double() * parts.unet.state_dict()[name.removesuffix("weight") + "scale"]
            # float16's values are often in the middle between two, and either is right
            assert ((held - wanted).abs() <= (rounded(wanted) - wanted).abs() + 1e-6 * wanted.abs()).all()
        elif not name.endswith(".scale"):
            assert torch.equal(tensor, before[name])


def quantized(blocks: Iterable[str]) -> set[str]:
    """Published names of weights in e4m3: those of the packed projection are three."""
    layers = ("attn1.to_q", "attn1.to_k", "attn1.to_v", *PRODUCTS[1:])
    return {f"{block}.{layer}.weight" for block in blocks for layer in layers}


def exact_block(block: Any, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The same block in float64, with ``rounded`` before each of the four products."""

    def norm(layer: Any, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, layer.weight.shape, layer.weight.double(), layer.bias.double(), layer.eps)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        heads = [each.view(*each.shape[:2], block.attn1.heads, -1).transpose(1, 2) for each in (query, key, value)]
        return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)

    def out(layer: Any, found: torch.Tensor) -> torch.Tensor:
        return F.linear(found, layer.to_out[0].weight.double(), layer.to_out[0].bias.double())

    x = x.double()
    x = x + out(block.attn1, attend(*product(norm(block.norm1, x), block.attn1.qkv).chunk(3, dim=2)))
    keys = text.double().chunk(2, dim=2)
    x = x + out(block.attn2, attend(product(norm(block.norm2, x), block.attn2.to_q.weight), *keys))
    first, second = block.ff.net[0].proj, block.ff.net[2]
    value, gate = product(norm(block.norm3, x), first.weight, first.bias).chunk(2, dim=2)
    return x + product(value * F.gelu(gate), second.weight, second.bias)


def test_a_block_is_what_rounding_before_its_products_gives():
    parts = tiny()
    block = next(module for module in parts.unet.modules() if isinstance(module, TransformerBlock))
    generator = torch.Generator().manual_seed(1)
    width = block.norm1.weight.shape[0]
    x = torch.randn(2, 40, width, generator=generator)
    text = torch.randn(2, 9, 2 * width, generator=generator)
    block.attn2.columns = slice(0, 2 * width)
    exact, plain = exact_block(block, x, text), sum(block(x.clone(), None, AttentionInputs(text)))
    in_float8(parts, torch.float32)
    found = sum(block(x.clone(), None, AttentionInputs(text)))
    error, lost = ((found - each).square().mean().sqrt() for each in (exact, plain))
    # a weight in the middle between two numbers may go to either; a product left out of eight changes a third of it
    assert error < 0.15 * lost
    assert lost < 0.05 * plain.square().mean().sqrt()


def test_layers_that_do_not_fit_are_noted_and_where_none_fits_it_is_refused():
    parts = tiny()
    first, *others = [module for module in parts.unet.modules() if isinstance(module, TransformerBlock)]
    first.norm1.weight = torch.nn.Parameter(torch.ones(72))
    made = in_float8(parts, torch.float32)
    assert made.precision_notes == (
        f"precision fp8: 1 of {1 + len(others)} transformer blocks have channels that are not multiples of 16 and "
        "stayed as they were",
    )
    assert not first.float8
    assert all(block.float8 for block in others)
    parts = tiny()
    for block in [module for module in parts.unet.modules() if isinstance(module, TransformerBlock)]:
        block.norm1.weight = torch.nn.Parameter(torch.ones(72))
    with pytest.raises(
        intarsia.BackendError, match=r"^precision fp8 needs transformer blocks that it fits: \d+ of \d+ "
    ):
        in_float8(parts, torch.float32)


@pytest.mark.every(3)
@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_every_block_of_the_published_shapes_takes_part(family):
    """On the meta device, where torch checks what its products ask of shapes and strides."""
    with torch.device("meta"):
        unet = UNet(UNETS[family]).half().requires_grad_(False)
    parts = in_float8(replace(tiny(), unet=unet), BRAIN)
    assert parts.precision_notes == ()
    blocks = [module for module in unet.modules() if isinstance(module, TransformerBlock)]
    width = unet.config.cross_attention_dim[0]
    columns = sum(each.columns.stop - each.columns.start for each in unet.cross_attentions())
    with torch.device("meta"):
        added = {"pooled": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)} if family == "sdxl" else {}
        emb = unet.embed(torch.empty(2), **{name: each.half() for name, each in added.items()})
        sample = torch.empty(2, 4, 32, 32, dtype=HALF)
        cross_kv = unet.cross_kv(torch.empty(2, 77, width, dtype=HALF))
        assert cross_kv.shape[2] == columns
        found = count(lambda: unet(sample, emb, cross_kv)).operations
    assert found["_scaled_mm"] == 4 * len(blocks)
    assert found["geglu_float8"] == len(blocks)
    assert found["layer_norm_float8"] + found["add_layer_norm_float8"] == 3 * len(blocks)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchBackend, "simulates", True)


def painted(precision: str, **fields: Any) -> intarsia.Result:
    with intarsia.Engine("torch", "cpu", precision=precision) as engine:
        return engine.run(noise_request(SIZE, slice(16, 60), slice(10, 54), steps=3, **fields))


@pytest.mark.parametrize("merging", [0.0, 0.5])
def test_an_image_differs_a_little_and_says_why(simulated, merging):
    standard, fp8 = (painted(each, token_merging=merging) for each in ("standard", "fp8"))
    assert (standard.ran["precision"], fp8.ran["precision"]) == ("standard", "fp8")
    assert fp8.plan.model.precision == fp8.meta["precision"] == "fp8"
    assert not fp8.warnings
    error = np.mean((standard.drawn[0].astype(float) - fp8.drawn[0]) ** 2)
    assert error > 0
    assert decibels(error) > 35
    np.testing.assert_array_equal(painted("fp8", token_merging=merging).drawn[0], fp8.drawn[0])


@pytest.mark.slow
def test_the_packaged_model_keeps_its_images(simulated):
    """Six of the scenes; `python -m benchmarks.float8` has two hundred, and merged ones."""
    found = summary([paint_scene(index, 128) for index in range(6)])
    assert missed(found) == []


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_cpu_is_refused(backend):
    request = noise_request(SIZE, slice(16, 60), slice(10, 54), steps=2)
    sentence = (
        r"^precision fp8 needs a CUDA device of compute capability 8\.9 or higher, not cpu; ask for precision standard$"
    )
    with (
        intarsia.Engine(backend, "cpu", precision="fp8") as engine,
        pytest.raises(intarsia.BackendError, match=sentence),
    ):
        engine.run(request)


class Card:
    """A CUDA device, as far as it is looked at."""

    sum = 17

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capability: tuple[int, int],
        writes: Sequence[torch.dtype] = (HALF, BRAIN),
    ) -> None:
        self.asked = []
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A Card")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(precisions, "torch", SimpleNamespace(**vars(torch) | {"ones": self.ones}))
        monkeypatch.setattr(precisions, "scaled_product", self.product)
        self.writes = writes

    def ones(self, *shape: object, device: object) -> torch.Tensor:
        return torch.ones(*shape)

    def product(self, x: torch.Tensor, weight: object, bias: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        self.asked.append((bias.dtype, dtype))
        if dtype not in self.writes:
            raise ValueError("Only bf16 high precision output types are supported for row-wise scaling.\nmore")
        return torch.full((16, 16), self.sum, dtype=dtype)


@pytest.mark.parametrize(("writes", "written"), [((HALF, BRAIN), HALF), ((BRAIN,), BRAIN)])
@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (12, 0)])
def test_products_are_written_in_half_precision_where_torch_can(monkeypatch, writes, written, capability):
    card = Card(monkeypatch, capability, writes)
    assert product_dtype(torch.device("cuda", 0), HALF) == written
    assert card.asked[-1] == (written, written), "a bias has the dtype of the result"


def test_what_a_card_or_torch_lacks_is_named(monkeypatch):
    Card(monkeypatch, (8, 6))
    with pytest.raises(intarsia.BackendError) as old:
        product_dtype(torch.device("cuda", 0), HALF)
    needs = "precision fp8 needs a CUDA device of compute capability 8.9 or higher"
    assert str(old.value) == f"{needs}; A Card has 8.6; ask for precision standard"
    Card(monkeypatch, (9, 0)).sum = 16
    with pytest.raises(intarsia.BackendError, match=r"does not have for A Card: 16 · 1 · 1 \+ 1 came to 16; ask for"):
        product_dtype(torch.device("cuda", 0), HALF)
    Card(monkeypatch, (9, 0), writes=())
    with pytest.raises(intarsia.BackendError) as without:
        product_dtype(torch.device("cuda", 0), HALF)
    assert str(without.value) == (
        "precision fp8 needs torch._scaled_mm with a scale for each row, which "
        f"torch {torch.__version__} does not have for A Card: "
        "Only bf16 high precision output types are supported for row-wise scaling.; ask for precision standard"
    )
