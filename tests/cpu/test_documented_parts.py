"""A documented request with a LoRA, a VAE, an embedding and an IP adapter: each has its effect, on both backends."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")

import intarsia
from intarsia.registry.registry import Registry
from tests.unit.endpoint_table import MINIMAL

PARTS = {
    "lora_model": {"lora_model": "shade,stripes", "lora_strength": "0.5,0.8"},
    "embeddings_model": {"embeddings_model": "tiny-sun"},
    "vae": {"vae": "smooth"},
    "ip_adapter_id": {"ip_adapter_id": "tiny-look", "ip_adapter_scale": 0.9},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE under an id of its own: the packaged one, with other last weights."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("weights")
    own = Registry().find("intarsia-tiny").path / "vae"
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_bytes((own / "config.json").read_bytes())
    state = load_file(own / "diffusion_pytorch_model.safetensors")
    last = max((name for name in state if name.startswith("decoder.") and name.endswith("bias")), key=_layer)
    state[last] = state[last] + np.asarray([0.2, -0.2, 0.0], state[last].dtype)
    save_file(state, folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "weights.toml").write_text(f"schema = 1\n[vaes.smooth]\npath = {json.dumps(str(folder / 'vae'))}\n")
    return folder / "weights.toml"


def _layer(name: str) -> int:
    return int(name.split(".")[2])


@pytest.fixture(scope="module")
def payload() -> dict[str, Any]:
    pixels = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    return {
        **MINIMAL, "model_id": "intarsia-tiny", "prompt": "a tiny-sun", "init_image": encoded(pixels),
        "mask_image": encoded(mask), "width": 64, "height": 64, "num_inference_steps": 3, "seed": 5, "base64": "yes",
        "ip_adapter_image": encoded(pixels),
    }  # fmt: skip


def encoded(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def painted(engine: intarsia.Engine, payload: dict[str, Any]) -> np.ndarray:
    reply = engine.reply(payload, "community")
    assert reply["status"] == "success", reply
    assert not reply.get("tip"), reply["tip"]
    (image,) = reply["output"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2] or image)))).astype(int)


def test_each_part_of_a_documented_request_has_its_effect(weights, payload):
    bare = {name: value for name, value in payload.items() if name != "ip_adapter_image"}
    with intarsia.Engine("torch", "cpu", weights) as engine:
        plain = painted(engine, bare)
        for name, fields in PARTS.items():
            asked = (payload if name == "ip_adapter_id" else bare) | fields
            changed = np.abs(painted(engine, asked) - plain)
            assert changed[16:48, 16:48].mean() > 0.5, name
        everything = painted(engine, payload | {key: value for part in PARTS.values() for key, value in part.items()})
    assert np.abs(everything - plain)[16:48, 16:48].mean() > 1

    without_vae = {name: value for name, value in PARTS.items() if name != "vae"}  # its graphs are not exported
    asked = payload | {key: value for part in without_vae.values() for key, value in part.items()}
    drawn = []
    for backend in ("torch", "onnx"):
        with intarsia.Engine(backend, "cpu", weights) as engine:
            drawn.append(painted(engine, asked))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1, "float32 in another order, rounded to eight bits"
