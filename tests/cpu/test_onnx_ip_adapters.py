"""IP adapters on ONNX Runtime against the torch backend: the packaged one, and random ones of both layouts."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")
torch = pytest.importorskip("torch", reason="compares with torch: pip install 'intarsia[torch]'")

from transformers import CLIPImageProcessorPil

import intarsia
from intarsia.export.clip import ClipImage
from intarsia.models.clip_config import read_vision_shape
from intarsia.models.image_prompt import encoder_pixels
from tests import adapters
from tools.train_tiny.scenes import MEASURING, draw_scene

SIZE = 128


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[intarsia.Engine, intarsia.Engine]]:
    with intarsia.Engine("torch", "cpu") as one, intarsia.Engine("onnx", "cpu") as other:
        yield one, other


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Large squares of colors."""
    squares = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    rows = np.arange(height) * 4 // height
    columns = np.arange(width) * 4 // width
    return squares[rows][:, columns]


def asked(scale: float | None, **fields: Any) -> intarsia.InpaintRequest:
    scene = draw_scene("measure", 3, SIZE, MEASURING)
    if scale is not None:
        shown = {"id": "tiny-look", "image": image(70, 100), "scale": scale}
        fields["ip_adapter"] = {**shown, **fields.get("ip_adapter", {})}
    defaults = {"prompt": scene.caption, "steps": 4, "strength": 1.0, "guidance_scale": 4.0, "seed": 11}
    return intarsia.InpaintRequest(
        init_image=scene.background, mask_image=scene.mask, width=SIZE, height=SIZE, **{**defaults, **fields}
    )


def drawn(result: intarsia.Result) -> np.ndarray:
    return np.asarray(result.generated[0], np.float64)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9)))


CASES = [
    (1.0, {}),
    (0.5, {"guidance_scale": 1.0}),
    (1.0, {"ip_adapter": {"image": image(60, 160, seed=1)}, "loras": ["stripes:0.8"]}),
]


@pytest.mark.every(3)
@pytest.mark.parametrize(("scale", "fields"), CASES, ids=["guided", "unguided", "with a LoRA"])
def test_the_packaged_adapter_gives_torchs_image(engines, scale, fields):
    one, other = (engine.run(asked(scale, **fields)) for engine in engines)
    assert other.runtime.backend == "onnx"
    assert psnr(drawn(one), drawn(other)) >= 50
    without = {name: value for name, value in fields.items() if name != "ip_adapter"}
    assert psnr(drawn(other), drawn(engines[1].run(asked(None, **without)))) < 30


def test_a_scale_of_zero_is_the_model_alone(engines):
    onnx = engines[1]
    # a graph with more operations may sum in another order
    assert psnr(drawn(onnx.run(asked(0.0))), drawn(onnx.run(asked(None)))) >= 60


def test_a_published_file_beside_its_encoder_has_the_graphs_of_a_folder(engines, tmp_path):
    folder = intarsia.Registry().part("ip_adapters", "tiny-look").path
    shutil.copytree(folder / "image_encoder", tmp_path / "models" / "image_encoder")
    file = tmp_path / "models" / "ip-adapter_tiny.safetensors"
    shutil.copy(folder / "ip_adapter.safetensors", file)
    named, by_path = (engines[1].run(asked(1.0, ip_adapter={"id": each})) for each in ("tiny-look", str(file)))
    np.testing.assert_array_equal(drawn(named), drawn(by_path))


def test_tokens_do_not_merge_beside_an_image_and_the_result_says_so(engines):
    result = engines[1].run(asked(1.0, token_merging=0.5))
    assert any("token merging: not together with an IP adapter" in each for each in result.warnings)


def test_a_session_that_is_closed_keeps_no_network():
    """Although the session itself is still referred to."""
    with intarsia.Engine("onnx", "cpu") as engine:
        engine.run(asked(1.0, steps=2))
        (session,) = engine._worker._models._sessions.values()
        networks = [weakref.ref(session._pool.sessions.network), weakref.ref(session._image_prompts._encoder)]
    assert [network() for network in networks] == [None, None]


@pytest.mark.parametrize("size", [(40, 40), (50, 91), (131, 64), (64, 65)])
def test_images_are_prepared_as_transformers_does(size):
    given = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = processor(given, return_tensors="np").pixel_values
    np.testing.assert_allclose(encoder_pixels(given, 32), expected, atol=1e-5)


@pytest.mark.parametrize("penultimate", [False, True])
def test_the_image_encoder_for_export_is_transformers_own(tmp_path, penultimate):
    theirs = adapters.write_image_encoder(tmp_path)
    ours = ClipImage(read_vision_shape(tmp_path / "config.json"), penultimate=penultimate)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.endswith("position_ids")})
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = theirs(pixels, output_hidden_states=True)
        expected = outputs.hidden_states[-2] if penultimate else outputs.image_embeds
        torch.testing.assert_close(ours(pixels), expected, atol=1e-5, rtol=1e-5)
        assert ours.patches == outputs.hidden_states[-2].shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
def test_random_adapters_of_both_layouts_give_torchs_image(tmp_path, monkeypatch, plus):
    for package in ("onnx", "onnxscript", "diffusers"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'intarsia[export]'")
    from diffusers import UNet2DConditionModel

    from intarsia.backends.onnx.sources import ip_adapter_source, source_of
    from intarsia.export.folder import cached, export_ip_adapter, export_model
    from tests.random_model import write_model

    monkeypatch.setenv("INTARSIA_GRAPHS", str(tmp_path / "graphs"))
    model, look = write_model(tmp_path / "nine", 9, "tiny"), tmp_path / "look"
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    adapters.write_ip_adapter(look, adapters.ip_adapter_state(unet, 32, plus=plus))
    export_model(model, cached(model, "float32"))
    export_ip_adapter(look, model, cached(ip_adapter_source(look, source_of(model)), "float32"))
    registry = write_registry(tmp_path)

    made = []
    for backend in ("torch", "onnx"):
        with intarsia.Engine(backend, "cpu", registry) as engine:
            made.append(drawn(engine.run(asked(0.8, ip_adapter={"id": "look"}))))
    assert psnr(*made) >= 50


def write_registry(folder: Path) -> Path:
    path = folder / "weights.toml"
    path.write_text(
        'schema = 1\ndefault = "nine"\n[models.nine]\nfamily = "sd15-inpaint"\npath = "nine"\n'
        '[ip_adapters.look]\npath = "look"\n'
    )
    return path
