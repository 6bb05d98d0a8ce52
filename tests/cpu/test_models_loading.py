"""A diffusers folder → networks: what loads, and what is refused with one line."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from intarsia.errors import WeightsError
from intarsia.models.loading import load_pipeline_parts, load_vae
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import AutoencoderKL, KLConfig
from tests.small_folder import KL, UNET, WEIGHTS, write_network, write_small_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(published, tmp_path / "model")


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_pipeline_parts(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_a_folder_loads_and_draws_without_the_network(published, monkeypatch, capfd):
    def unreachable(*_: object) -> None:
        raise AssertionError("loading must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    parts = load_pipeline_parts(published)
    assert capfd.readouterr() == ("", "")
    weights = list(parts.unet.parameters())
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert not any(weight.requires_grad or weight.is_meta for weight in weights)
    assert parts.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert parts.scheduler["prediction_type"] == "epsilon"
    assert not parts.zero_empty_prompt
    encoding = parts.text.encode(["a b c"])
    latents = parts.vae.encode(torch.rand(1, 3, 64, 64) * 2 - 1)
    sample = torch.cat([latents, latents[:, :1], latents], dim=1)
    out = parts.unet(sample, parts.unet.embed(torch.tensor([500.0])), parts.unet.cross_kv(encoding.hidden))
    assert out.shape == latents.shape == (1, 4, 8, 8)
    assert parts.vae.decode(out).shape == (1, 3, 64, 64)


def test_the_weights_are_those_of_the_file(published):
    stored = load_file(published / "unet" / WEIGHTS)
    loaded = load_pipeline_parts(published).unet.state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in stored.items())


def test_an_autoencoder_that_would_overflow_half_precision_is_shrunk(tmp_path):
    config = {**KL, "force_upcast": True}
    network = AutoencoderKL(KLConfig.from_dict(config))
    write_network(tmp_path / "vae", network, config)
    stored = network.decoder.conv_in.weight
    plain = stored.half()
    assert torch.equal(load_vae(tmp_path / "vae", CPU, torch.float16).decoder.conv_in.weight, plain / 64)
    assert torch.equal(load_vae(tmp_path / "vae", CPU, torch.bfloat16).decoder.conv_in.weight, stored.bfloat16())
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "force_upcast": False}))
    assert torch.equal(load_vae(tmp_path / "vae", CPU, torch.float16).decoder.conv_in.weight, plain)


def test_old_names_of_the_autoencoders_attention_load(tmp_path):
    torch.manual_seed(1)
    network = AutoencoderKL(KLConfig.from_dict(KL))
    write_network(tmp_path / "new", network, KL)
    write_network(tmp_path / "old", network, KL)
    old = {}
    for name, tensor in network.state_dict().items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f"attentions.0.{new}.weight" in name:
                tensor = tensor[:, :, None, None]  # as 1x1 convolutions, which some files have
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        old[name] = tensor.contiguous()
    assert not any("to_q" in name for name in old)
    save_file(old, tmp_path / "old" / WEIGHTS)
    latents = torch.randn(1, 4, 4, 4)
    decoded = [load_vae(tmp_path / name, CPU, torch.float32).decode(latents) for name in ("new", "old")]
    assert torch.equal(*decoded)


def test_shards_and_the_fp16_variant_load(folder):
    expected = load_pipeline_parts(folder).unet.state_dict()
    state = load_file(folder / "unet" / WEIGHTS)
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    variant = load_pipeline_parts(folder).unet.state_dict()
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    names = sorted(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: state[name] for name in part}, folder / "unet" / shard)
    where = {name: shard for shard, part in shards.items() for name in part}
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": where}))
    sharded = load_pipeline_parts(folder).unet.state_dict()
    for loaded in (variant, sharded):
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    (folder / "unet" / "b.safetensors").unlink()
    assert "b.safetensors: no such file" in refusal(folder)


def test_an_index_cannot_point_outside_its_folder(folder):
    (folder / "unet" / WEIGHTS).unlink()
    index = {"weight_map": {"conv_in.weight": "../vae/" + WEIGHTS}}
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert "in the same folder" in refusal(folder)


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        f"unet/{WEIGHTS}",
        "vae/config.json",
        f"vae/{WEIGHTS}",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    assert f"{folder / missing}: no such file" in refusal(folder)


def test_a_missing_vocabulary_or_encoder_is_named(folder):
    (folder / "tokenizer" / "vocab.json").unlink()
    assert "tokenizer: must hold tokenizer.json, or vocab.json and merges.txt" in refusal(folder)
    shutil.rmtree(folder / "text_encoder")
    assert "text_encoder: no such folder" in refusal(folder)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt"])
def test_pickled_weights_are_refused_and_not_opened(folder, component, suffix):
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (pytest.fail, ("the pickle was opened",))

    (weights,) = (folder / component).glob("*.safetensors")
    (folder / component / f"{weights.stem}{suffix}").write_bytes(pickle.dumps(Trap()))
    weights.unlink()
    message = refusal(folder)
    assert f"{weights.stem}{suffix}: pickled weights are refused" in message
    assert "can run any code" in message


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, -1])
def test_a_truncated_file_is_named(folder, component, keep):
    (weights,) = (folder / component).glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    expected = "is empty" if keep == 0 else "truncated"
    assert f"{weights}: {expected}" in refusal(folder)


def damaged(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """Apply ``change`` to the UNet's tensors, in place."""
    state = load_file(folder / "unet" / WEIGHTS)
    change(state)
    save_file(state, folder / "unet" / WEIGHTS)
    return refusal(folder)


def test_tensors_that_do_not_fit_are_named(folder):
    packed = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    message = damaged(folder, lambda state: state.pop(packed))
    assert message == f"{folder / 'unet' / WEIGHTS}: missing tensors: {packed}"


def test_left_over_tensors_are_named(folder):
    extra = {f"extra.{i}": torch.zeros(1) for i in range(5)}
    message = damaged(folder, lambda state: state.update(extra))
    assert message.endswith("unexpected tensors: extra.0, extra.1, extra.2 and 2 more")


def test_wrong_shapes_are_named(folder):
    message = damaged(folder, lambda state: state.update({"conv_in.weight": torch.zeros(16, 4, 3, 3)}))
    assert message.endswith("wrongly shaped tensors: conv_in.weight (16, 4, 3, 3), not (16, 9, 3, 3)")


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("unet/config.json", "{", "not readable as JSON"),
        ("unet/config.json", "[]", "must hold a JSON object"),
        ("unet/config.json", '{"_class_name": "UNet3DConditionModel"}', "_class_name must be"),
        ("unet/config.json", '{"class_embed_type": "timestep"}', "class_embed_type must be None"),
        ("vae/config.json", '{"_class_name": "VQModel"}', "must be AutoencoderKL or AutoencoderTiny"),
        ("vae/config.json", '{"_class_name": "AutoencoderTiny", "act_fn": "gelu"}', "act_fn must be 'relu'"),
        (
            "vae/config.json",
            '{"_class_name": "AutoencoderTiny", "latent_channels": "x"}',
            "latent_channels must be a whole number from 1 to 1048576, not 'x'",
        ),
        ("vae/config.json", '{"latents_mean": [0.5]}', "latents_mean must be None"),
        ("text_encoder/config.json", '{"architectures": ["T5EncoderModel"]}', "architectures must name"),
        ("tokenizer/tokenizer_config.json", '{"tokenizer_class": "T5Tokenizer"}', "tokenizer_class must be"),
        ("tokenizer/vocab.json", "{", "vocab.json: not readable as JSON"),
        ("tokenizer/merges.txt", "a b c", "tokenizer: not readable as a CLIP tokenizer"),
    ],
)
def test_a_file_that_says_something_else_is_named(folder, path, text, expected):
    (folder / path).write_text(text)
    message = refusal(folder)
    assert expected in message
    assert str(folder / path.split("/")[0]) in message


def test_text_encoder_and_unet_must_fit_each_other(folder):
    shutil.rmtree(folder / "unet")
    config = replace(UNetConfig.from_dict(UNET), cross_attention_dim=(24, 24))
    write_network(folder / "unet", UNet(config), {**UNET, "cross_attention_dim": 24})
    assert "cross_attention_dim is [24], the text encoders give 16" in refusal(folder)
