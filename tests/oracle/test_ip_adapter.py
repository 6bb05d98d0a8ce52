"""Our IP adapters against diffusers': same weights, same image, float32, error at most 1e-5."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
diffusers = pytest.importorskip("diffusers", reason="the oracle needs diffusers: pip install 'intarsia[oracle]'")

from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from PIL import Image
from transformers import CLIPImageProcessor

import intarsia
from intarsia import WeightsError
from intarsia.adding.add import AddOptions, add
from intarsia.checkpoints.ip_adapter_layout import image_encoder
from intarsia.endpoints import reading
from intarsia.models.ip_adapter_files import load_ip_adapter
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.registry.entries import normalize
from intarsia.registry.registry import Registry
from tests.adapters import ip_adapter_state, write, write_ip_adapter

TOLERANCE = 1e-5  # outputs are about 2 at most; the sums are only ordered differently
CPU = torch.device("cpu")

SMALL = {
    "block_out_channels": (32, 64, 96),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1, "cross_attention_dim": 24, "attention_head_dim": 4, "norm_num_groups": 8,
}  # fmt: skip
CASES = {
    "sd1": {},
    "sd1 inpaint, no middle": {"in_channels": 9, "mid_block_type": None},
    "sdxl": {
        "use_linear_projection": True, "attention_head_dim": (1, 2, 3), "transformer_layers_per_block": (1, 1, 2),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 16 + 6 * 8,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def networks(extra: Any) -> tuple[Any, UNet]:
    """diffusers' UNet and ours, with the same random weights."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(**{**SMALL, **extra}).eval()
    for parameter in theirs.parameters():
        parameter += 0.02 * torch.randn(parameter.shape)
    ours = UNet(UNetConfig.from_dict(dict(theirs.config))).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def their_features(encoder: Any, image: np.ndarray, plus: bool) -> torch.Tensor:
    """As in StableDiffusionPipeline.encode_image: both branches, without an image and with it."""
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = processor(Image.fromarray(image), return_tensors="pt").pixel_values
    if plus:
        both = torch.cat([torch.zeros_like(pixels), pixels])
        return encoder(both, output_hidden_states=True).hidden_states[-2]
    embeds = encoder(pixels).image_embeds
    return torch.cat([torch.zeros_like(embeds), embeds])


@pytest.mark.every(2)
@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
@pytest.mark.parametrize("case", CASES)
def test_unet_with_ip_adapter_as_diffusers(tmp_path, image, case, plus):
    theirs, ours = networks(CASES[case])
    state = ip_adapter_state(theirs, 24, plus)
    encoder = write_ip_adapter(tmp_path, state)
    by_module = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        by_module[module][rest] = tensor
    prompts = load_ip_adapter(tmp_path, ours, CPU, torch.float32)
    sample, hidden = torch.randn(2, theirs.config.in_channels, 12, 8), torch.randn(2, 7, 24)
    added = {}
    if case == "sdxl":
        added = {"text_embeds": torch.randn(2, 16), "time_ids": torch.randint(0, 99, (2, 6)).float()}
    time = torch.tensor([400.0, 400.0])
    emb = ours.embed(time, *added.values())
    without = theirs(sample, time, hidden, added_cond_kwargs=added).sample

    theirs._load_ip_adapter_weights([by_module], low_cpu_mem_usage=False)
    added["image_embeds"] = [their_features(encoder, image, plus)[:, None]]
    for scale in (0.0, 0.5, 1.0):
        for processor in theirs.attn_processors.values():
            if isinstance(processor, IPAdapterAttnProcessor2_0):
                processor.scale = [scale]
        expected = theirs(sample, time, hidden, added_cond_kwargs=added).sample
        found = ours(sample, emb, ours.cross_kv(hidden), prompts.image_kv(image, scale))
        assert (found - expected).abs().max() <= TOLERANCE
        difference = (expected - without).abs().max()
        assert difference > 0.01 if scale else difference == 0, "the adapter must matter, and not at scale 0"
        assert expected.std() > 0.1


WRONG = {
    "full face": ({"image_proj.proj.0.weight": (8, 8), "image_proj.proj.3.weight": (24,)}, "not a layout that is run"),
    "half a resampler": ({"image_proj.latents": (1, 5, 16)}, "not an IP adapter's image projection"),
    "no projection": ({}, "not a layout that is run"),
    "other width": ({"image_proj.proj.weight": (4 * 32, 20), "image_proj.proj.bias": (4 * 32,)}, "wrongly shaped"),
    "other encoder": ({"image_proj.proj.weight": (4 * 24, 21)}, "image encoder of 21 channels, image_encoder gives 20"),
    "a layer more": ({"ip_adapter.99.to_k_ip.weight": (32, 24)}, r"unexpected tensors: ip_adapter\.99"),
}


@pytest.mark.parametrize("case", WRONG)
def test_adapters_that_do_not_fit_are_named(tmp_path, case):
    theirs, ours = networks({})
    changes, sentence = WRONG[case]
    state = ip_adapter_state(theirs, 24)
    if case in ("full face", "half a resampler", "no projection"):
        state = {name: tensor for name, tensor in state.items() if name.startswith("ip_adapter.")}
    write_ip_adapter(tmp_path, state | {name: torch.zeros(shape) for name, shape in changes.items()})
    with pytest.raises(WeightsError, match=sentence) as caught:
        load_ip_adapter(tmp_path, ours, CPU, torch.float32)
    assert str(tmp_path / "ip_adapter.safetensors") in str(caught.value)


def test_a_missing_image_encoder_is_named(tmp_path):
    theirs, ours = networks({})
    write(tmp_path / "ip_adapter.safetensors", ip_adapter_state(theirs, 24))
    with pytest.raises(WeightsError, match=r"image_encoder/config\.json: no such file"):
        load_ip_adapter(tmp_path, ours, CPU, torch.float32)


def test_a_published_file_is_its_folder_with_the_image_encoder_that_it_was_trained_with(tmp_path):
    theirs, unet = networks({})
    folder = tmp_path / "folder"
    write_ip_adapter(folder, ip_adapter_state(theirs, 24))
    published = tmp_path / "h94"
    (published / "sdxl_models").mkdir(parents=True)
    for name, place in (("ip-adapter_sd15", "models"), ("ip-adapter_sdxl_vit-h", "sdxl_models")):
        (published / place).mkdir(exist_ok=True)
        shutil.copy(folder / "ip_adapter.safetensors", published / place / f"{name}.safetensors")
    shutil.copytree(folder / "image_encoder", published / "models" / "image_encoder")
    shutil.copytree(folder / "image_encoder", published / "sdxl_models" / "image_encoder")
    config = published / "sdxl_models" / "image_encoder" / "config.json"
    other = json.loads(config.read_text())
    config.write_text(json.dumps(other | {"projection_dim": 7, "hidden_size": 24}))  # another encoder than it takes

    expected = load_ip_adapter(folder, unet, CPU, torch.float32).adapter.state_dict()
    for path in (published / "models" / "ip-adapter_sd15", published / "sdxl_models" / "ip-adapter_sdxl_vit-h"):
        path = path.with_suffix(".safetensors")
        found = load_ip_adapter(path, unet, CPU, torch.float32)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.adapter.state_dict().items())
        assert image_encoder(path) == published / "models" / "image_encoder"

    shutil.rmtree(published / "models" / "image_encoder")
    with pytest.raises(WeightsError, match="an IP adapter needs its image encoder: put that with projection_dim"):
        image_encoder(published / "sdxl_models" / "ip-adapter_sdxl_vit-h.safetensors")


DOCUMENTED = {
    "ip-adapter_sd15": "models",
    "ip-adapter-plus-face_sd15": "models",
    "ip-adapter_sdxl": "sdxl_models",
    "ip-adapter-plus_sdxl_vit-h": "sdxl_models",
    "ip-adapter-plus-face_sdxl_vit-h": "sdxl_models",
}


FITS = {"models": "sd15", "sdxl_models": "sdxl"}


def test_the_documented_ids_are_those_of_the_published_files_once_they_are_added(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    theirs, _ = networks({})
    write_ip_adapter(tmp_path / "folder", ip_adapter_state(theirs, 24))
    published = tmp_path / "h94"
    shutil.copytree(tmp_path / "folder" / "image_encoder", published / "models" / "image_encoder")
    shutil.copytree(tmp_path / "folder" / "image_encoder", published / "sdxl_models" / "image_encoder")
    state = ip_adapter_state(theirs, 24)
    for number, (name, place) in enumerate(DOCUMENTED.items()):
        path = published / place / f"{name}.safetensors"
        write(path, state | {"image_proj.norm.bias": torch.full((24,), float(number))})
        add(path, AddOptions(families=(FITS[place],)))

    image = "data:image/png;base64," + base64.b64encode(png()).decode()
    for name, place in DOCUMENTED.items():
        registry = Registry()
        assert registry.part("ip_adapters", name).path == published / place / f"{name}.safetensors"
        payload = {
            "model_id": "intarsia-tiny", "prompt": "a red circle", "init_image": image, "mask_image": image,
            "ip_adapter_id": name, "ip_adapter_image": image, "ip_adapter_scale": 0.5,
        }  # fmt: skip
        read = reading.read(payload, "community", registry)
        assert read.request.ip_adapter.id == name
        with pytest.raises(WeightsError, match=rf"IP adapter {normalize(name)} fits the families {FITS[place]}, not"):
            intarsia.plan(read.request)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    return file.getvalue()
