"""VAEs, LoRAs and IP adapters on the torch backend, from registry entry to image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="makes its models with diffusers: pip install 'intarsia[torch]'")

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel

import intarsia
from intarsia import IpAdapter, Lora, WeightsError
from tests import adapters
from tests.noise_request import noise_request
from tests.random_model import write_model

SIZE = 64


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model "nine" with another model's VAE, two LoRAs and an IP adapter; and "swapped", a folder with that VAE."""
    folder = tmp_path_factory.mktemp("parts")
    model = write_model(folder / "nine", 9, "tiny")
    other = write_model(folder / "other", 9, "kl", seed=1)
    shutil.copytree(model, folder / "swapped", ignore=shutil.ignore_patterns("vae"))
    shutil.copytree(other / "vae", folder / "swapped" / "vae")
    index = folder / "swapped" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "vae": ["diffusers", "AutoencoderKL"]}))
    networks = {
        "unet": UNet2DConditionModel.from_pretrained(model / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(model / "text_encoder"),
    }
    layers = {name: adapters.layers_of(network) for name, network in networks.items()}
    for seed, name in enumerate(("ink", "chalk")):
        pairs = adapters.random_pairs(networks, layers, seed)
        adapters.write(folder / f"{name}.safetensors", adapters.kohya(pairs))
    adapters.write_ip_adapter(folder / "look", adapters.ip_adapter_state(networks["unet"], 32))
    (folder / "weights.toml").write_text(
        'schema = 1\ndefault = "nine"\n'
        + "".join(f'[models.{name}]\nfamily = "sd15-inpaint"\npath = "{name}"\n' for name in ("nine", "swapped"))
        + '[vaes.kl]\npath = "other/vae"\n[ip_adapters.look]\npath = "look"\n'
        + "".join(f'[loras.{name}]\npath = "{name}.safetensors"\n' for name in ("ink", "chalk"))
    )
    return folder


@pytest.fixture(scope="module")
def engine(home: Path) -> Iterator[intarsia.Engine]:
    with intarsia.Engine("torch", "cpu", home / "weights.toml") as opened:
        yield opened


@pytest.fixture
def ask() -> Callable[..., intarsia.InpaintRequest]:
    return lambda **fields: noise_request(SIZE, slice(16, 50), slice(10, 44), **{"steps": 3, **fields})


def drawn(result: intarsia.Result) -> np.ndarray:
    return np.asarray(result.generated[0])


def test_another_vae_is_the_model_with_that_vae_inside(engine, ask):
    named, inside, own = (engine.run(ask(**fields)) for fields in ({"vae": "kl"}, {"model": "swapped"}, {}))
    np.testing.assert_array_equal(drawn(named), drawn(inside))
    assert not np.array_equal(drawn(named), drawn(own))


def test_requests_with_different_parts_share_an_engine_and_not_their_weights(engine, ask):
    look = IpAdapter(id="look", image=np.full((40, 60, 3), 200, np.uint8))
    variants = [
        {},
        {"loras": (Lora(id="ink"),)},
        {"loras": (Lora(id="ink", strength=-0.5),)},
        {"loras": (Lora(id="ink"), Lora(id="chalk", strength=0.5))},
        {"loras": (Lora(id="chalk"),), "vae": "kl"},
        {"ip_adapter": look},
        {"ip_adapter": look, "loras": (Lora(id="ink"),)},
        {"ip_adapter": look, "guidance_scale": 1.0},
    ]
    together = [ticket.result() for ticket in [engine.submit(ask(**fields)) for fields in variants]]
    alone = [engine.run(ask(**fields)) for fields in variants]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(drawn(one), drawn(other))
    assert len({drawn(result).tobytes() for result in alone}) == len(variants)


def test_nothing_is_left_of_a_lora_at_strength_zero_or_of_an_ip_adapter_at_scale_zero(engine, ask):
    plain = drawn(engine.run(ask()))
    np.testing.assert_array_equal(plain, drawn(engine.run(ask(loras=(Lora(id="ink", strength=0.0),)))))
    hidden = IpAdapter(id="look", scale=0.0, image=np.full((8, 8, 3), 9, np.uint8))
    np.testing.assert_array_equal(plain, drawn(engine.run(ask(ip_adapter=hidden))))


def test_requests_with_one_adapter_share_a_batch_whatever_its_image_and_scale(engine, home, ask):
    looks = [(90, 1.0), (200, 1.0), (200, 0.3)]
    requests = [
        ask(ip_adapter=IpAdapter(id="look", scale=scale, image=np.full((40, 40, 3), value, np.uint8)))
        for value, scale in looks
    ]
    alone = [drawn(engine.run(request)).astype(np.int16) for request in requests]
    with intarsia.Engine("torch", "cpu", home / "weights.toml", deterministic=False) as batching:
        tickets = [batching.submit(request) for request in requests]
        together = [drawn(ticket.result()).astype(np.int16) for ticket in tickets]
        assert batching.counters.evaluations < sum(ticket.resolved.plan.sampler.evaluations for ticket in tickets)
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1, "float32 in another order: at most one level after rounding"
    assert not np.array_equal(alone[0], alone[1])
    assert not np.array_equal(alone[1], alone[2])


def save_vae(folder: Path, **config: Any) -> None:
    kind = AutoencoderTiny if config.pop("tiny", False) else AutoencoderKL
    kind(**config).save_pretrained(folder)


KL = {"norm_num_groups": 4, "layers_per_block": 1}
VAES = {
    "other channels": (
        lambda folder: save_vae(folder, **KL, latent_channels=16, block_out_channels=(8,) * 4,
                                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4),
        r"latent_channels 16, nine's family in the registry promises 4",
    ),
    "other factor": (
        lambda folder: save_vae(folder, **KL, latent_channels=4, block_out_channels=(8,) * 2,
                                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
        r"factor 2, nine's family in the registry promises 8",
    ),
    "no weights": (
        lambda folder: (folder / "diffusion_pytorch_model.safetensors").unlink(),
        r"diffusion_pytorch_model\.safetensors: no such file",
    ),
    "pickled": (
        lambda folder: (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin"),
        "pickled weights are refused",
    ),
    "another network": (lambda folder: (folder / "config.json").write_text('{"_class_name": "X"}'), "_class_name must"),
}  # fmt: skip


@pytest.mark.parametrize("case", VAES)
def test_vaes_that_do_not_fit_are_named(home, tmp_path, ask, case):
    damage, sentence = VAES[case]
    shutil.copytree(home / "other" / "vae", tmp_path / "vae")
    damage(tmp_path / "vae")
    registry = tmp_path / "weights.toml"
    registry.write_text(
        f'schema = 1\n[models.nine]\nfamily = "sd15-inpaint"\npath = {json.dumps(str(home / "nine"))}\n'
        '[vaes.bad]\npath = "vae"\n'
    )
    with intarsia.Engine("torch", "cpu", registry) as engine, pytest.raises(WeightsError, match=sentence) as caught:
        engine.run(ask(model="nine", vae="bad"))
    assert str(tmp_path / "vae") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lora_of_another_model_is_refused_and_the_engine_goes_on(home, tmp_path, ask):
    state = {"unet.nowhere.lora_A.weight": torch.ones(2, 8), "unet.nowhere.lora_B.weight": torch.ones(8, 2)}
    adapters.write(tmp_path / "bad.safetensors", state)
    registry = tmp_path / "weights.toml"
    registry.write_text(
        f'schema = 1\n[models.nine]\nfamily = "sd15-inpaint"\npath = {json.dumps(str(home / "nine"))}\n'
        '[loras.bad]\npath = "bad.safetensors"\n'
    )
    with intarsia.Engine("torch", "cpu", registry) as engine:
        with pytest.raises(WeightsError, match=r"bad\.safetensors: 1 of its 1 layer is not .*unet\.nowhere"):
            engine.run(ask(model="nine", loras=(Lora(id="bad"),)))
        assert drawn(engine.run(ask(model="nine"))).std() > 1
