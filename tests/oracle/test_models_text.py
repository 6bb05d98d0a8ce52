"""Prompt encoding against diffusers' own pipelines, with small text encoders made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from intarsia.errors import RequestError
from intarsia.models.text_files import load_text

PROMPTS = ["a red circle", "blue square on the left, a Ring", "", "star " * 100]
CPU = torch.device("cpu")


def tokenizer_files(folder: Path) -> int:
    """A CLIP vocabulary of letters and a few merges, padded to 77 tokens."""
    letters = [chr(c) for c in range(33, 127)]
    merges = ["r e", "re d</w>", "c i", "s t"]
    words = letters + [letter + "</w>" for letter in letters] + [m.replace(" ", "") for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "pad_token": "<|endoftext|>",
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(words)


def text_encoder(kind: Any, vocabulary: int, width: int, layers: int) -> Any:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=24,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    encoder = kind(config).eval()
    generator = torch.Generator().manual_seed(width)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both text towers; SD1.x is the first alone."""
    folder = tmp_path_factory.mktemp("text")
    for suffix, kind, width, layers in [
        ("", CLIPTextModel, 32, 4),
        ("_2", CLIPTextModelWithProjection, 48, 5),
    ]:
        vocabulary = tokenizer_files(folder / f"tokenizer{suffix}")
        text_encoder(kind, vocabulary, width, layers).save_pretrained(folder / f"text_encoder{suffix}")
    return folder


@pytest.fixture(scope="module")
def single(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    alone = tmp_path_factory.mktemp("single")
    for name in ("tokenizer", "text_encoder"):
        (alone / name).symlink_to(folder / name)
    return alone


def networks() -> dict[str, Any]:
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    return {"unet": unet, "vae": AutoencoderKL(), "scheduler": EulerDiscreteScheduler(steps_offset=1)}


def towers(folder: Path, suffix: str = "") -> dict[str, Any]:
    kind = CLIPTextModelWithProjection if suffix else CLIPTextModel
    return {
        f"tokenizer{suffix}": CLIPTokenizer.from_pretrained(folder / f"tokenizer{suffix}"),
        f"text_encoder{suffix}": kind.from_pretrained(folder / f"text_encoder{suffix}").eval(),
    }


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("clip_skip", [1, 2, 3, 4])
def test_one_encoder_as_diffusers(single, clip_skip):
    parts = towers(single)
    # the pipeline looks for the final norm inside text_model, where transformers 4 had it
    if not hasattr(parts["text_encoder"], "text_model"):
        object.__setattr__(parts["text_encoder"], "text_model", parts["text_encoder"])
    pipeline = StableDiffusionInpaintPipeline(
        **networks(), **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    skip = None if clip_skip == 1 else clip_skip - 1
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(PROMPTS, CPU, 1, False, clip_skip=skip)
    ours = load_text(single, CPU, torch.float32).encode(PROMPTS, clip_skip)
    assert worst(ours.hidden, theirs) <= 1e-5
    assert ours.pooled is None


@pytest.mark.parametrize(("clip_skip", "theirs_skip"), [(1, None), (2, 0), (3, 1), (4, 2)])
def test_two_encoders_as_diffusers(folder, clip_skip, theirs_skip):
    pipeline = StableDiffusionXLInpaintPipeline(**networks(), **towers(folder), **towers(folder, "_2"))
    with torch.no_grad():
        theirs, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, CPU, 1, False, clip_skip=theirs_skip)
    ours = load_text(folder, CPU, torch.float32).encode(PROMPTS, clip_skip)
    assert worst(ours.hidden, theirs) <= 1e-5
    assert worst(ours.pooled, pooled) <= 1e-5


def test_each_skipped_layer_changes_the_encoding(single):
    """The comparison above would not notice a clip_skip that does nothing on an encoder that does nothing."""
    text = load_text(single, CPU, torch.float32)
    hidden = [text.encode(["a red circle"], skip).hidden for skip in (1, 2, 3)]
    assert worst(hidden[0], hidden[1]) > 0.01
    assert worst(hidden[1], hidden[2]) > 0.01


def test_a_long_prompt_is_cut_with_a_warning(single):
    text = load_text(single, CPU, torch.float32)
    encoding = text.encode(["a red circle", "star " * 100])
    assert encoding.hidden.shape[1] == 77
    assert len(encoding.warnings) == 1
    assert "77 tokens" in encoding.warnings[0]
    assert "star" in encoding.warnings[0]
    assert text.encode(["a red circle"]).warnings == ()


@pytest.mark.parametrize("clip_skip", [0, -1, 5])
def test_clip_skip_out_of_range_is_refused(folder, clip_skip):
    text = load_text(folder, CPU, torch.float32)
    with pytest.raises(RequestError, match=f"clip_skip must be between 1 and 4 for this model, not {clip_skip}"):
        text.encode(["a red circle"], clip_skip)


def test_old_parameter_names_load(single, tmp_path):
    """Files written with transformers 4 have text_model. before every name, and a stored constant."""
    from safetensors.torch import load_file, save_file

    state = load_file(single / "text_encoder" / "model.safetensors")
    old = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    (tmp_path / "text_encoder").mkdir()
    save_file(old, tmp_path / "text_encoder" / "model.safetensors")
    (tmp_path / "text_encoder" / "config.json").symlink_to(single / "text_encoder" / "config.json")
    (tmp_path / "tokenizer").symlink_to(single / "tokenizer")
    ours = load_text(tmp_path, CPU, torch.float32).encode(PROMPTS)
    assert torch.equal(ours.hidden, load_text(single, CPU, torch.float32).encode(PROMPTS).hidden)
