"""Checkpoints in one file on ONNX Runtime: graphs refer to the file's own bytes, and give what torch gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for package in ("onnxruntime", "onnx", "onnxscript", "torch", "diffusers"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'intarsia[cpu,export]'")

import onnx
import torch
from safetensors.torch import load_file, save_file

import intarsia
from intarsia.backends.onnx.changed_weights import ChangedWeights
from intarsia.backends.onnx.device import Device
from intarsia.backends.onnx.folding import WeightMaker
from intarsia.backends.onnx.initializers import with_format
from intarsia.backends.onnx.sources import LOCATION, Source, source_of, vae_source
from intarsia.checkpoints.header import read_header
from intarsia.checkpoints.single_file import stored_file
from intarsia.checkpoints.stored import Place, StoredModel, StoredNetwork
from intarsia.errors import WeightsError
from intarsia.export.folder import cached, export_model, export_vae
from intarsia.export.stored import Stored, places, read_stored
from intarsia.export.translate import Signature, translate
from intarsia.models.loading import build_unet, build_vae, load_pipeline_parts
from intarsia.models.lora import Addition, Additions, LoraFile
from intarsia.models.lora_forms import Difference
from tests.noise_request import noise_request
from tests.original_layout import checkpoint, make_networks, save

FORMATS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
_TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}


@pytest.mark.every(2)
@pytest.mark.parametrize(("family", "dtype"), [("sd15", "float8_e4m3fn"), ("sd21", "float32"), ("sdxl", "bfloat16")])
def test_every_tensor_is_where_graphs_look_for_it(tmp_path, family, dtype):
    path = save(tmp_path / "model.safetensors", checkpoint(make_networks(family)), FORMATS[dtype])
    parts = load_pipeline_parts(path)
    model = stored_file(path)
    loaded = {"unet": parts.unet, "vae": parts.vae}
    loaded |= {name: tower.model for name, tower in zip(model.text_encoders, parts.text.towers, strict=True)}
    content = path.read_bytes()

    for name, network in model.networks.items():
        state = {key.removeprefix("text_model."): value for key, value in loaded[name].state_dict().items()}
        for key, stored in read_stored(source_of(path), network).items():
            assert stored.file == LOCATION
            expected = state[key.removeprefix("text_model.")]
            assert torch.equal(read(content, stored).reshape(expected.shape), expected), f"{name}: {key}"

    # and nothing is missing
    stored = {name: read_stored(source_of(path), network) for name, network in model.networks.items()}
    assert len(places(build_unet(model.networks["unet"]), stored["unet"], path)) > 100
    assert len(places(build_vae(model.networks["vae"]), stored["vae"], path)) > 100


def read(content: bytes, stored: Stored) -> torch.Tensor:
    end = stored.offset + stored.length
    values = torch.frombuffer(bytearray(content[stored.offset : end]), dtype=_TORCH[stored.dtype])
    made = values.float().reshape(stored.shape)
    return made.T if stored.transposed else made


# So many that the weight is folded where memory is short.
INPUTS, OUTPUTS = 160, 128


class Product(torch.nn.Module):
    """A linear layer as an exported network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(INPUTS, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.network(x)
        return out


@dataclass(frozen=True)
class StoredProduct:
    """A file of a weight, stored the other way around, and of a bias, some rows of another tensor; and its graph."""

    network: StoredNetwork
    graph: bytes
    weight: torch.Tensor
    bias: torch.Tensor
    x: torch.Tensor

    def run(self, graph: bytes, folds: bool, given: Mapping[str, WeightMaker] | None = None) -> torch.Tensor:
        device = Device("cpu", folds=folds)
        (made,) = device.open(graph, self.network.source.parent, given=given).run(None, {"x": self.x.numpy()})
        return torch.from_numpy(made)


def stored_product(folder: Path, dtype: str) -> StoredProduct:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator).to(FORMATS[dtype])
    biases = torch.randn(3 * OUTPUTS, generator=generator).to(FORMATS[dtype])
    path = folder / LOCATION
    save_file({"weight": weight.T.contiguous(), "biases": biases}, path)
    places_of = {
        "weight": Place(file=path, name="weight", transposed=True),
        "bias": Place(file=path, name="biases", rows=(3, 3 + OUTPUTS)),
    }
    network = StoredNetwork(
        name="text_encoder", source=path, config={}, headers={path: read_header(path)}, places=places_of
    )
    source = Source(path=path, hashes={}, command="", files={LOCATION: path})
    module = Product()
    stored = places(module.network, read_stored(source, network), path)
    graph = translate(module, stored, Signature({"x": torch.zeros(2, INPUTS)}, {}, ["y"]))
    x = torch.randn(2, INPUTS, generator=generator)
    return StoredProduct(network, graph, weight.float(), biases[3 : 3 + OUTPUTS].float(), x)


@pytest.mark.every(6)
@pytest.mark.parametrize("folds", [False, True], ids=["", "folded"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_every_number_format_is_computed_with_as_torch_reads_it(tmp_path, dtype, folds):
    """As it is in the file, and with a LoRA, whose sums are given in its place."""
    stored = stored_product(tmp_path, dtype)
    for tensor in onnx.load_from_string(stored.graph).graph.initializer:
        assert tensor.data_location == onnx.TensorProto.EXTERNAL, tensor.name
    expected = stored.x @ stored.weight.T + stored.bias
    torch.testing.assert_close(stored.run(stored.graph, folds), expected, atol=1e-4, rtol=0)

    values = np.random.default_rng(1).standard_normal((OUTPUTS, INPUTS), np.float32)
    tensors = {"weight": Addition(form=Difference(values)), "bias": Addition(form=Difference(values[:, 0].copy()))}
    lora = LoraFile(path=tmp_path / "lora", strength=0.5, tensors={"text_encoder": tensors})
    model = StoredModel(path=tmp_path, networks={"text_encoder": stored.network}, tokenizers={})
    changes = ChangedWeights(stored=model, additions=Additions([lora]))
    names = changes.names("text_encoder", stored.graph)
    assert set(names.values()) == {"weight", "bias"}

    graph = with_format(stored.graph, names, "float32")
    found = stored.run(graph, folds, changes.values("text_encoder", graph, "float32"))
    more = torch.from_numpy(values) * 0.5
    expected = stored.x @ (stored.weight + more).T + stored.bias + more[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    # and the graph is as it was
    assert not torch.equal(stored.run(stored.graph, folds), found)


def test_a_file_keeps_its_graphs_under_another_name_and_loses_them_with_another_header(tmp_path):
    networks = make_networks("sd15")
    one = save(tmp_path / "one.safetensors", checkpoint(networks))
    place = cached(one, "float32")
    assert cached(one.rename(tmp_path / "ü other.safetensors"), "float32") == place
    other = save(tmp_path / "other.safetensors", checkpoint(networks), metadata={"title": "another"})
    assert cached(other, "float32") != place
    # nothing in a VAE's file says how latents are scaled
    assert vae_source(other, "sd15").hashes != vae_source(other, "sdxl").hashes


def test_a_file_without_graphs_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("INTARSIA_GRAPHS", str(tmp_path / "graphs"))
    path = save(tmp_path / "model.safetensors", checkpoint(make_networks("sd15")))
    with intarsia.Engine("onnx", "cpu") as engine, pytest.raises(WeightsError, match="make them with intarsia export"):
        engine.run(noise_request(64, slice(16, 50), slice(10, 44), model=str(path), prompt="a fox", steps=2))


def drawn(path: Path, backend: str, **fields: Any) -> np.ndarray:
    with intarsia.Engine(backend, "cpu") as engine:
        asked = {"model": str(path), "prompt": "a red fox", "steps": 3, "seed": 5, **fields}
        result = engine.run(noise_request(128, slice(16, 100), slice(10, 90), **asked))
    assert result.runtime.backend == backend
    return np.asarray(result.generated[0], np.float64)


@pytest.mark.slow
def test_a_checkpoint_gives_the_image_that_torch_gives_and_nothing_is_written_beside_it(tmp_path, monkeypatch):
    """SDXL's has all that differs: a packed text encoder, a projection stored the other way around."""
    monkeypatch.setenv("INTARSIA_GRAPHS", str(tmp_path / "graphs"))
    folder = tmp_path / "files"
    folder.mkdir()
    path = save(folder / "my model.safetensors", checkpoint(make_networks("sdxl", shallow=True)))
    export_model(path, cached(path, "float32"))
    vae = save(folder / "vae.safetensors", {k: v * 0.9 for k, v in vae_of(path).items()})
    export_vae(vae, cached(vae_source(vae, "sdxl"), "float32"), family="sdxl")

    own, other = drawn(path, "onnx"), drawn(path, "onnx", vae=str(vae))
    assert psnr(own, drawn(path, "torch")) >= 60
    assert psnr(other, drawn(path, "torch", vae=str(vae))) >= 60
    assert psnr(own, other) < 40
    assert sorted(each.name for each in folder.iterdir()) == ["my model.safetensors", "vae.safetensors"]


def vae_of(path: Path) -> dict[str, torch.Tensor]:
    prefix = "first_stage_model."
    return {name.removeprefix(prefix): each for name, each in load_file(path).items() if name.startswith(prefix)}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9)))
