"""An IP adapter whose entry names its image encoder: by path, by another adapter's id, on both backends."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")
pytest.importorskip("torch", reason="compares with torch: pip install 'intarsia[torch]'")

import intarsia
from intarsia.adding.add import add
from intarsia.adding.options import AddOptions
from intarsia.registry.files import entry_hash
from intarsia.registry.registry import Registry
from tests.noise_request import noise_request

LOOK = Path(intarsia.__file__).parent / "assets" / "ip-adapters" / "tiny-look"
SHOWN = np.full((40, 40, 3), (200, 30, 60), np.uint8)
SMALL: dict[str, Any] = {"clip_skip": 2, "size": 64, "rows": slice(16, 40), "columns": slice(16, 40), "steps": 2}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The packaged adapter without its image encoder, which lies in a folder called vision."""
    shutil.copytree(LOOK / "image_encoder", tmp_path / "vision")
    (tmp_path / "bare").mkdir()
    shutil.copy(LOOK / "ip_adapter.safetensors", tmp_path / "bare")
    return tmp_path / "bare"


def registry_with(folder: Path, encoder: str) -> Path:
    path = folder / "weights.toml"
    path.write_text(f'schema = 1\n[ip_adapters.bare]\npath = "bare"\nimage_encoder = "{encoder}"\n')
    return path


def drawn(backend: str, registry: Path | None, adapter: str) -> np.ndarray:
    shown = {"id": adapter, "image": SHOWN, "scale": 0.7}
    with intarsia.Engine(backend, "cpu", registry) as engine:
        return np.asarray(engine.run(noise_request(**SMALL, ip_adapter=shown)).generated[0])


@pytest.mark.every(3)
@pytest.mark.parametrize("encoder", ["vision", "./vision", "tiny-look"])
def test_it_is_the_adapter_with_the_encoder_that_its_entry_names(bare, encoder):
    registry = registry_with(bare.parent, encoder)
    for backend in ("onnx", "torch"):
        assert np.array_equal(drawn(backend, registry, "bare"), drawn(backend, None, "tiny-look"))


def test_without_it_nothing_is_painted(bare):
    registry = registry_with(bare.parent, "nowhere")
    with pytest.raises(intarsia.WeightsError, match=r"nowhere is no folder with config\.json and weights"):
        drawn("torch", registry, "bare")


def test_an_encoder_of_another_width_is_refused(bare):
    config = bare.parent / "vision" / "config.json"
    config.write_text(config.read_text().replace('"projection_dim": 64', '"projection_dim": 65'))
    registry = registry_with(bare.parent, "vision")
    for backend in ("onnx", "torch"):
        with pytest.raises(intarsia.WeightsError, match="takes an image encoder with projection_dim 64"):
            drawn(backend, registry, "bare")


def test_its_content_is_in_the_plans_hash(bare):
    registry = registry_with(bare.parent, "vision")
    copied = shutil.copytree(bare, bare.parent / "pinned")
    added = add(copied, AddOptions(image_encoder=str(bare.parent / "vision")), registry)
    assert added.entry.image_encoder == bare.parent / "vision"
    before = [entry_hash(Registry(registry).part("ip_adapters", name)) for name in ("bare", "pinned")]
    assert Registry(registry).part("ip_adapters", "pinned").files
    config = bare.parent / "vision" / "config.json"
    config.write_text(config.read_text() + " ")
    after = [entry_hash(Registry(registry).part("ip_adapters", name)) for name in ("bare", "pinned")]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_adding_an_adapter_without_an_encoder_asks_for_one(bare):
    registry = bare.parent / "own.toml"
    lora = Path(shutil.copy(LOOK.parents[1] / "loras" / "pastel.safetensors", bare.parent))
    with pytest.raises(intarsia.WeightsError, match="name another's with --image-encoder PATH or ID"):
        add(bare, weights=registry)
    added = add(bare, AddOptions(image_encoder="tiny-look"), registry)
    assert 'image_encoder = "tiny-look"' in registry.read_text()
    assert Registry(registry).part("ip_adapters", added.entry.id).image_encoder == LOOK
    with pytest.raises(intarsia.WeightsError, match="--image-encoder is for IP adapters"):
        add(lora, AddOptions(image_encoder="tiny-look"), registry)
