"""The packaged model is a complete folder in diffusers' layout, small, and without pickles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from intarsia.registry.registry import Registry

ASSETS = Path(__file__).resolve().parents[2] / "intarsia" / "assets"
MODEL = ASSETS / "intarsia-tiny"
FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)


def _config(part: str) -> dict[str, object]:
    return dict(json.loads((MODEL / part / "config.json").read_text()))


def test_every_file_is_there_and_all_are_at_most_20_mb() -> None:
    assert [name for name in FILES if not (MODEL / name).is_file()] == []
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 20_000_000
    assert {path.suffix for path in MODEL.rglob("*") if path.is_file()} <= {
        ".json",
        ".safetensors",
        ".txt",
        ".md",
    }


def test_all_packaged_files_together_are_at_most_40_mb() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 40_000_000


@pytest.mark.parametrize(("name", "channels"), [("intarsia-tiny-lcm", 9), ("intarsia-tiny-base", 4)])
def test_other_models_have_a_unet_of_the_same_configuration_and_no_network_besides(name: str, channels: int) -> None:
    """Autoencoder, text encoder and tokenizer are the first model's, which their entries name."""
    folder = ASSETS / name
    assert {path.name for path in folder.iterdir()} - {"README.md"} == {"model_index.json", "scheduler", "unet"}
    own = json.loads((folder / "unet" / "config.json").read_text())
    assert own == {**_config("unet"), "in_channels": channels}
    entry = Registry().find(name)
    assert (entry.vae, entry.text, entry.shape.in_channels) == ("intarsia-tiny-vae", "intarsia-tiny", channels)
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (folder / weights).read_bytes() != (MODEL / weights).read_bytes()


def test_weights_are_finite_float16() -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="reading weights needs safetensors")
    for path in ASSETS.rglob("*.safetensors"):
        if path.parent.name == "intarsia-tiny-safety":
            continue
        for name, array in safetensors.load_file(path).items():
            assert array.dtype in (np.float16, np.int64), name
            assert np.isfinite(array).all(), name


def test_the_network_takes_nine_channels_and_attends_at_half_the_latent_resolution() -> None:
    unet, vae, text = _config("unet"), _config("vae"), _config("text_encoder")
    assert (unet["in_channels"], unet["out_channels"], unet["sample_size"]) == (9, 4, 64)
    kinds = unet["down_block_types"]
    assert isinstance(kinds, list)
    assert kinds[1] == "CrossAttnDownBlock2D"
    assert vae["latent_channels"] == 4
    assert unet["cross_attention_dim"] == text["hidden_size"]
    assert text["max_position_embeddings"] == 77
    for content in (unet, vae, text):
        assert "_name_or_path" not in content


def test_the_tokenizer_is_the_same_without_transformers() -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="reading tokenizer.json needs tokenizers")
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers")
    alone = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer" / "tokenizer.json"))
    loaded = transformers.CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    assert loaded.model_max_length == 77
    for text in ("", "a red circle", "A Purple RING, best quality.", "Xylophone 42 naïve — 猫"):
        assert alone.encode(text).ids == loaded(text).input_ids
    assert len(loaded("a red circle").input_ids) == 5


def test_diffusers_loads_it_and_paints_only_finite_numbers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="the layout is diffusers'")
    torch = pytest.importorskip("torch", reason="painting needs torch")
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(MODEL, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.safety_checker is None
    assert pipeline.vae_scale_factor == 8
    image = np.full((128, 128, 3), 0.75, np.float32)
    mask = np.zeros((128, 128), np.float32)
    mask[32:96, 32:96] = 1
    drawn = pipeline(
        "a red circle", image=image, mask_image=mask, height=128, width=128, num_inference_steps=8,
        generator=torch.Generator().manual_seed(0), output_type="np",
    ).images[0]  # fmt: skip
    assert drawn.shape == (128, 128, 3)
    assert np.isfinite(drawn).all()
    # Eight steps at a size it was not trained at leave some noise (0.052 with the packaged weights).
    assert np.abs(drawn[:24] - 0.75).mean() < 0.1
