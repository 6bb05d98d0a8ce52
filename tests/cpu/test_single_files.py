"""Checkpoints in one file give the networks that they were made of: the same weights, and the same outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="needs diffusers as an oracle")

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from intarsia.checkpoints.single_file import stored_model, stored_vae
from intarsia.errors import WeightsError
from intarsia.models.loading import Parts, load_pipeline_parts, load_vae
from intarsia.models.weight_files import read_tensors, stored_tensors
from tests.original_layout import Networks, State, checkpoint, make_networks, save, unet_state, vae_state

FAMILIES = ("sd15", "sd15-inpaint", "sd21", "sdxl", "sdxl-inpaint")
CPU = torch.device("cpu")
PROMPTS = ["a photo of an astronaut riding a horse on mars", ""]
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def models() -> Callable[[str], Networks]:
    """The networks of a family, made once."""
    made: dict[str, Networks] = {}

    def get(family: str) -> Networks:
        if family not in made:
            made[family] = make_networks(family)
        return made[family]

    return get


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked up anywhere."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a connection was tried")

    for name in ("socket.socket.connect", "socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(name, refuse)


def assert_same_weights(network: Any, expected: Any) -> None:
    """Equal to the bit, under the same names but for transformers' ``text_model.``."""
    ours = {name.removeprefix("text_model."): tensor for name, tensor in network.state_dict().items()}
    theirs = {name.removeprefix("text_model."): tensor for name, tensor in expected.state_dict().items()}
    theirs = {name: tensor for name, tensor in theirs.items() if not name.endswith("position_ids")}
    ours = {name: tensor for name, tensor in ours.items() if not name.endswith("position_ids")}
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert different == []


def assert_same_outputs(parts: Parts, networks: Networks) -> None:
    generator = torch.Generator().manual_seed(1)
    unet = networks.unet
    latents = torch.randn(2, unet.config.in_channels, 16, 24, generator=generator)
    context = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    added = {}
    if unet.config.addition_embed_type:
        width = unet.config.projection_class_embeddings_input_dim - 6 * 256
        added = {"text_embeds": torch.randn(2, width, generator=generator), "time_ids": torch.rand(2, 6) * 1000}
    expected = unet(latents, torch.tensor([3, 801]), context, added_cond_kwargs=added).sample
    rows = parts.unet.embed(torch.tensor([3.0, 801.0]), *added.values())
    ours = parts.unet(latents, rows, parts.unet.cross_kv(context))
    torch.testing.assert_close(ours, expected, **CLOSE)

    small = latents[:, :4] / 4
    expected = networks.vae.decode(small / networks.vae.config.scaling_factor).sample
    torch.testing.assert_close(parts.vae.decode(small), expected, rtol=0, atol=1e-4)

    for tower, text in zip(parts.text.towers, networks.texts, strict=True):
        for prompt in PROMPTS:
            ids = torch.from_numpy(tower.tokens.encode(prompt)[0])
            assert ids.max() == 49407
            expected = text(ids, output_hidden_states=True)
            torch.testing.assert_close(tower.run(ids).hidden_states[-1], expected.hidden_states[-1], **CLOSE)
            if hasattr(expected, "text_embeds"):
                torch.testing.assert_close(tower.run(ids).text_embeds, expected.text_embeds, **CLOSE)


@pytest.mark.every(2)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_checkpoint_is_the_networks_that_it_was_made_of(family, models, tmp_path):
    networks = models(family)
    parts = load_pipeline_parts(save(tmp_path / "model.safetensors", checkpoint(networks)))
    assert_same_weights(parts.unet, networks.unet)
    assert_same_weights(parts.vae, networks.vae)
    for tower, text in zip(parts.text.towers, networks.texts, strict=True):
        assert_same_weights(tower.model, text)
    assert_same_outputs(parts, networks)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_reads_the_tests_own_files_as_the_same_networks(family, models):
    networks = models(family)
    config = dict(networks.unet.config) | {"class_embed_type": None, "num_class_embeds": None}
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in unet_state(networks.unet).items()}
    converted = convert_ldm_unet_checkpoint(prefixed, config)
    assert converted.keys() == networks.unet.state_dict().keys()
    assert all(torch.equal(tensor, converted[name]) for name, tensor in networks.unet.state_dict().items())

    converted = convert_ldm_vae_checkpoint(vae_state(networks.vae), dict(networks.vae.config))
    assert converted.keys() == networks.vae.state_dict().keys()


# Float8 rounds, so the file is compared with what it rounds to.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_every_number_format_is_read_as_it_is(dtype, models, tmp_path):
    networks = models("sd15")
    parts = load_pipeline_parts(save(tmp_path / "model.safetensors", checkpoint(networks), dtype))
    theirs = networks.unet.state_dict()
    for name, tensor in parts.unet.state_dict().items():
        assert torch.equal(tensor, theirs[name].to(dtype).float()), name


def test_what_training_leaves_in_a_file_is_not_read(models, tmp_path):
    networks = models("sd15")
    state = checkpoint(networks)
    averages: State = {
        "model_ema.diffusion_model" + name.removeprefix("model.diffusion_model.").replace(".", ""): tensor + 1
        for name, tensor in state.items()
        if name.startswith("model.diffusion_model.")
    }
    others = {"betas": torch.rand(1000), "global_step": torch.tensor(840000), "model_ema.decay": torch.tensor(0.9999)}
    others["first_stage_model.loss.logvar"] = torch.zeros(())
    parts = load_pipeline_parts(save(tmp_path / "model.safetensors", {**averages, **others, **state}))
    assert_same_weights(parts.unet, networks.unet)
    assert_same_weights(parts.vae, networks.vae)


def test_what_a_file_lacks_comes_from_another(models, tmp_path):
    inpainting, plain = models("sd15-inpaint"), models("sd15")
    whole = save(tmp_path / "whole.safetensors", checkpoint(plain))
    vae = save(tmp_path / "vae.safetensors", vae_state(plain.vae))
    for prefix in ("", "model.diffusion_model."):
        state = {prefix + name: tensor for name, tensor in unet_state(inpainting.unet).items()}
        unet = save(tmp_path / "unet.safetensors", state)
        with pytest.raises(WeightsError, match=r"has no VAE; name another's with the key vae of its entry"):
            stored_model(unet, text=whole)
        with pytest.raises(WeightsError, match=r"has no text encoder; name another model's with the key text"):
            stored_model(unet, vae=vae)
        parts = load_pipeline_parts(stored_model(unet, vae=vae, text=whole))
        assert_same_weights(parts.unet, inpainting.unet)
        assert_same_weights(parts.vae, plain.vae)
        assert_same_weights(parts.text.towers[0].model, plain.texts[0])

    # the other model may lack what is not taken from it
    texts = {name: tensor for name, tensor in checkpoint(plain).items() if not name.startswith("first_stage_model.")}
    lent = stored_model(unet, vae=vae, text=save(tmp_path / "without_vae.safetensors", texts))
    assert lent.text_encoders.keys() == {"text_encoder"}


@pytest.mark.parametrize("spelling", ["original", "first_stage_model", "diffusers", "diffusers before 0.13"])
def test_an_autoencoder_in_one_file_in_every_spelling(spelling, models, tmp_path):
    vae = models("sd15").vae
    state = vae.state_dict() if spelling.startswith("diffusers") else vae_state(vae)
    if spelling == "first_stage_model":
        state = {f"first_stage_model.{name}": tensor for name, tensor in state.items()}
    if spelling == "diffusers before 0.13":
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            state = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): t for name, t in state.items()}
    path = save(tmp_path / "vae.safetensors", state | {"loss.logvar": torch.zeros(())})
    assert_same_weights(load_vae(path, CPU, torch.float32), vae)
    assert stored_vae(path, "sdxl").config["scaling_factor"] == 0.13025
    assert stored_vae(path, "sd15").config["scaling_factor"] == 0.18215


def test_a_value_that_is_not_finite_is_named(models, tmp_path):
    state = checkpoint(models("sd15"))
    name = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    for value in (torch.nan, torch.inf, -torch.inf):
        damaged = state[name].clone()
        damaged.view(-1)[7] = value
        path = save(tmp_path / "model.safetensors", {**state, name: damaged})
        with pytest.raises(WeightsError, match=rf"model\.safetensors: {name} has values that are not finite"):
            load_pipeline_parts(path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_a_value_that_is_not_finite_is_found_in_every_format(dtype, value, tmp_path):
    values = torch.ones(3, 5)
    values[1, 2] = value
    path = save(tmp_path / "model.safetensors", {"x": values.to(dtype)})
    with pytest.raises(WeightsError, match="x has values that are not finite"):
        read_tensors([path], CPU, torch.float32)


def test_tensors_that_are_read_in_turn_share_their_memory(models, tmp_path):
    path = save(tmp_path / "vae.safetensors", models("sd15").vae.half().state_dict())
    network = stored_vae(path, "sd15")
    expected = dict(stored_tensors(network.places, network.headers))
    addresses = set()
    for name, values in stored_tensors(network.places, network.headers, in_turn=True):
        assert torch.equal(values, expected.pop(name))
        addresses.add(values.data_ptr())
    assert not expected
    assert len(addresses) == 1


def test_a_file_that_changes_between_header_and_weights_is_no_crash(models, tmp_path):
    path = save(tmp_path / "model.safetensors", checkpoint(models("sd15")))
    stored = stored_model(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"model\.safetensors: changed while it was read"):
        load_pipeline_parts(stored)
    path.unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read"):
        load_pipeline_parts(stored)


_LOAD = """
import sys, threading, time
import torch
from intarsia.models.loading import load_unet
from pathlib import Path

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

load_unet(Path(sys.argv[2]), torch.device("cpu"), torch.float16)
before, most, done = anonymous(), 0, threading.Event()
def watch():
    global most
    while not done.is_set():
        most = max(most, anonymous())
        time.sleep(0.0005)
watching = threading.Thread(target=watch)
watching.start()
network = load_unet(Path(sys.argv[1]), torch.device("cpu"), torch.float16)
done.set(); watching.join()
print(most - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads memory from /proc")
def test_loading_takes_hardly_more_memory_than_the_weights(tmp_path):
    from diffusers import UNet2DConditionModel

    small = UNet2DConditionModel(block_out_channels=(32, 32, 32, 32), cross_attention_dim=32)
    small.half().save_pretrained(tmp_path / "small")
    large = UNet2DConditionModel(block_out_channels=(128, 256, 320, 320), cross_attention_dim=320)
    large.half().save_pretrained(tmp_path / "large")
    size = (tmp_path / "large" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert size > 80e6

    command = [sys.executable, "-c", _LOAD, str(tmp_path / "large"), str(tmp_path / "small")]
    taken = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert taken < 1.2 * size
