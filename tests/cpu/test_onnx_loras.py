"""LoRAs on ONNX Runtime: numpy's sums are torch's, a session is given them, and the graphs stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")
torch = pytest.importorskip("torch", reason="compares with torch: pip install 'intarsia[torch]'")

from safetensors.torch import save_file

import intarsia
from intarsia.backends.onnx.changed_weights import read_changes
from intarsia.backends.onnx.graphs import PACKAGED, find_graphs
from intarsia.backends.onnx.initializers import initializer_shapes, with_format
from intarsia.backends.onnx.sources import source_of
from intarsia.checkpoints.header import read_header
from intarsia.checkpoints.single_file import stored_model
from intarsia.checkpoints.stored import Place
from intarsia.errors import WeightsError
from intarsia.models.lora_files import read_loras
from intarsia.models.lora_numpy import changed
from intarsia.models.lora_torch import folding
from intarsia.models.stored_arrays import stored_arrays
from intarsia.models.weight_files import stored_tensors
from tools.train_tiny.scenes import MEASURING, draw_scene

SIZE = 64
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "mid_block.resnets.0.conv1"
NORM = "mid_block.resnets.0.norm1"
SHAPES = {
    f"{LINEAR}.weight": (8, 6),
    f"{LINEAR}.bias": (8,),
    f"{CONVOLUTION}.weight": (8, 6, 3, 3),
    f"{NORM}.weight": (8,),
    f"{NORM}.bias": (8,),
    "conv_in.weight": (8, 9, 3, 3),
}
LOW_RANK: dict[str, tuple[int, ...]] = {"lora_down.weight": (2, 6), "lora_up.weight": (8, 2)}
LOHA: dict[str, tuple[int, ...]] = {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 2), "hada_w2_b": (2, 6)}
LOHA_CORES: dict[str, tuple[int, ...]] = {
    "hada_w1_a": (2, 8),
    "hada_w1_b": (2, 6),
    "hada_w2_a": (2, 8),
    "hada_w2_b": (2, 6),
    "hada_t1": (2, 2, 3, 3),
    "hada_t2": (2, 2, 3, 3),
}
KINDS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "LoRA": (LINEAR, {**LOW_RANK, "alpha": ()}),
    "LoCon": (CONVOLUTION, {"lora_down.weight": (2, 6, 3, 3), "lora_up.weight": (8, 2, 1, 1)}),
    "Tucker": (
        CONVOLUTION,
        {"lora_down.weight": (2, 6, 1, 1), "lora_up.weight": (8, 2, 1, 1), "lora_mid.weight": (2, 2, 3, 3)},
    ),
    "LoHa": (LINEAR, LOHA),
    "LoHa, Tucker": (CONVOLUTION, LOHA_CORES),
    "LoKr": (LINEAR, {"lokr_w1": (2, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 2), "alpha": ()}),
    "LoKr, Tucker": (
        CONVOLUTION,
        {"lokr_w1": (2, 3), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 2)},
    ),
    "DoRA by rows": (LINEAR, {**LOW_RANK, "dora_scale": (8, 1)}),
    "DoRA by columns": (LINEAR, {**LOW_RANK, "dora_scale": (1, 6)}),
    "DoRA of a convolution": (
        CONVOLUTION,
        {"lora_down.weight": (2, 6, 3, 3), "lora_up.weight": (8, 2, 1, 1), "dora_scale": (1, 6, 1, 1)},
    ),
    "whole differences": (LINEAR, {"diff": (8, 6), "diff_b": (8,)}),
    "norms": (NORM, {"w_norm": (8,), "b_norm": (8,)}),
    "4 of 9 input channels": ("conv_in", {"lora_down.weight": (2, 4, 3, 3), "lora_up.weight": (8, 2, 1, 1)}),
}


def write(path: Path, kind: str, dtype: Any = torch.float16, seed: int = 0) -> Path:
    layer, parts = KINDS[kind]
    generator = torch.Generator().manual_seed(seed)
    stem = f"lora_unet_{layer.replace('.', '_')}"
    state = {f"{stem}.{part}": torch.randn(shape, generator=generator).to(dtype) for part, shape in parts.items()}
    save_file(state, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_adds_what_it_adds_in_torch(tmp_path, kind):
    files = [(write(tmp_path / "a.safetensors", kind), 0.7), (write(tmp_path / "b.safetensors", kind, seed=1), -0.4)]
    by_numpy, by_torch = (read_loras(files, {"unet": SHAPES}, 2, read=read) for read in (stored_arrays, stored_tensors))
    assert by_numpy.tensors == by_torch.tensors
    fold = folding(by_torch, "unet", torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(9)
    for name in by_numpy.tensors["unet"]:
        weight = torch.randn(SHAPES[name], generator=generator)
        expected = fold(name, weight)
        found = changed(by_numpy, "unet", name, weight.numpy(), "float32")
        assert not torch.equal(expected, weight)
        # products in another order
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-6)


def test_a_sum_that_is_too_large_is_refused_as_in_torch(tmp_path):
    files = [(write(tmp_path / "a.safetensors", "LoRA"), 1e5)]
    additions = read_loras(files, {"unet": SHAPES}, 2, read=stored_arrays)
    with pytest.raises(WeightsError, match="too large for float16"):
        changed(additions, "unet", f"{LINEAR}.weight", np.zeros((8, 6), np.float32), "float16")


FORMATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64"]


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_number_format_is_read_as_torch_reads_it(tmp_path, dtype):
    """All numbers of eight bits that are finite, and some of the others; rows, and a matrix the other way around."""
    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(24, 10, generator=generator) * 100).to(kind)
    if values.element_size() == 1:
        codes = torch.arange(256, dtype=torch.uint8).view(kind)
        values = codes[codes.float().isfinite()][:240].reshape(24, 10)
    path = tmp_path / "x.safetensors"
    save_file({"x": values.contiguous()}, path)
    places = {
        "whole": Place(file=path, name="x"),
        "rows": Place(file=path, name="x", rows=(8, 16)),
        "other": Place(file=path, name="x", transposed=True),
    }
    headers = {path: read_header(path)}
    expected = dict(stored_tensors(places, headers))
    for name, found in stored_arrays(places, headers):
        np.testing.assert_array_equal(found, expected[name].to(torch.float32 if kind != torch.int64 else kind))


def test_values_that_are_not_finite_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.tensor([1.0, float("nan")]).bfloat16()}, path)
    with pytest.raises(WeightsError, match="x has values that are not finite"):
        list(stored_arrays({"x": Place(file=path, name="x")}, {path: read_header(path)}))


def test_a_graph_with_another_format_of_one_weight_is_otherwise_the_same():
    onnx = pytest.importorskip("onnx", reason="reads graphs with onnx: pip install 'intarsia[export]'")
    (path,) = PACKAGED.rglob("text_encoder.onnx")
    graph = path.read_bytes()
    expected = onnx.load_from_string(graph)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in expected.graph.initializer}
    assert initializer_shapes(graph) == shapes

    outside = [each for each in expected.graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
    outside[3].data_type = onnx.TensorProto.FLOAT
    assert onnx.load_from_string(with_format(graph, {outside[3].name}, "float32")) == expected
    with pytest.raises(WeightsError, match="cannot be found"):
        initializer_shapes(graph[:-1])


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[intarsia.Engine, intarsia.Engine]]:
    with intarsia.Engine("torch", "cpu") as one, intarsia.Engine("onnx", "cpu") as other:
        yield one, other


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the packaged model's UNet and text encoder, linear layers and convolutions."""
    model = stored_model(intarsia.Registry().find(None).path)
    state: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(4)
    for network, prefix in (("unet", "lora_unet"), ("text_encoder", "lora_te")):
        stored = model.networks[network]
        for name, place in stored.places.items():
            shape = stored.headers[place.file].tensors[place.name].shape
            layer = name.removesuffix(".weight")
            if name == layer or len(shape) not in (2, 4) or "embed" in name:
                continue
            stem = f"{prefix}_{layer.replace('.', '_')}"
            down = torch.randn(2, *shape[1:], generator=generator) / np.prod(shape[1:]) ** 0.5
            up = torch.randn(shape[0], 2, *(1,) * (len(shape) - 2), generator=generator) * 0.05
            state |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    path = tmp_path_factory.mktemp("loras") / "both.safetensors"
    save_file(state, path)
    return path


def drawn(engine: intarsia.Engine, loras: list[str]) -> np.ndarray:
    scene = draw_scene("measure", 3, SIZE, MEASURING)
    request = intarsia.InpaintRequest(
        init_image=scene.background, mask_image=scene.mask, prompt=scene.caption, width=SIZE, height=SIZE,
        strength=1.0, steps=4, guidance_scale=4.0, seed=11, loras=loras,
    )  # fmt: skip
    result = engine.run(request)
    assert result.warnings == ()
    return np.asarray(result.generated[0], np.float64)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9)))


def test_images_are_torchs_with_any_loras_and_the_models_own_without(engines, both):
    onnx = engines[1]
    plain = drawn(onnx, [])
    asked = [["stripes"], ["pastel:0.7"], ["stripes:0.6", "shade:-0.5"], [f"{both}:1.0"]]
    for loras in asked:
        one, other = (drawn(engine, loras) for engine in engines)
        assert psnr(one, other) >= 60, loras
        assert psnr(other, plain) < 30, loras
    assert np.array_equal(drawn(onnx, []), plain)


def test_only_what_changes_is_read_and_given(both):
    """Of the graphs of a network, each has its part; the VAE has none."""
    model = stored_model(intarsia.Registry().find(None).path)
    stripes = intarsia.Registry().part("loras", "stripes").path
    changes = read_changes(model, [(stripes, 1.0)])
    folder = find_graphs(source_of(intarsia.Registry().find(None).path), ("float32",)).folder
    named = {name: set(changes.names(name, (folder / f"{name}.onnx").read_bytes()).values()) for name in GRAPHS}
    assert named["vae_encoder"] == named["vae_decoder"] == set()
    union = set().union(*(named[name] for name in ("unet", "unet_embed", "unet_context")))
    assert union == changes.additions.tensors["unet"]
    assert len(union) < len(model.networks["unet"].places) / 2
    assert named["unet_merging"] == named["unet"]


GRAPHS = ["text_encoder", "unet", "unet_embed", "unet_context", "unet_merging", "vae_encoder", "vae_decoder"]
