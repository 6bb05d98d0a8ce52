"""What files and folders are, told by names and shapes of their tensors: kind, family, prediction, and why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from intarsia.checkpoints.identified import SD1, SD2, SDXL, TINY
from intarsia.checkpoints.probe import identify
from intarsia.errors import WeightsError
from intarsia.registry.entries import PARTS
from intarsia.registry.families import FAMILIES
from intarsia.registry.usable import KINDS, SECTIONS, section_of
from tests.tiny_files import (
    SD1_LORA,
    SD1_UNET,
    SD2_TEXT,
    SD2_UNET,
    SDXL_LORA,
    SDXL_TEXT,
    SDXL_UNET,
    VAE,
    channels,
    checkpoint,
    under,
    write,
)

SD2_FILE = checkpoint(SD2_UNET, SD2_TEXT)
SDXL_FILE = checkpoint(SDXL_UNET, SDXL_TEXT)
NOTHING: dict[str, tuple[int, ...]] = {}

# Name, tensors, metadata, and what is expected of the attributes.
MODELS: list[tuple[str, Mapping[str, Iterable[int]], dict[str, str], dict[str, Any]]] = [
    ("sd15", checkpoint(), {}, {"kind": "checkpoint", "family": "sd15", "prediction": "epsilon", "missing": ()}),
    ("sd15 9 channels", checkpoint(channels(SD1_UNET, 9)), {}, {"family": "sd15-inpaint", "prediction": "epsilon"}),
    ("sd21", SD2_FILE, {}, {"family": "sd21", "prediction": "v_prediction", "missing": ()}),
    (
        "sd21 9 channels",
        checkpoint(channels(SD2_UNET, 9), SD2_TEXT),
        {},
        {
            "family": "sd21-inpaint",
            "prediction": "epsilon",
        },
    ),
    ("sd2 base", SD2_FILE, {"modelspec.architecture": "stable-diffusion-v2-512"}, {"prediction": "epsilon"}),
    ("sd2 that says so", SD2_FILE, {"modelspec.prediction_type": "epsilon"}, {"prediction": "epsilon"}),
    (
        "sdxl",
        SDXL_FILE,
        {"modelspec.title": "Pony"},
        {
            "family": "sdxl",
            "prediction": "epsilon",
            "title": "Pony",
            "components": ("unet", "text", "text_2", "vae"),
        },
    ),
    ("sdxl 9 channels", checkpoint(channels(SDXL_UNET, 9), SDXL_TEXT), {}, {"family": "sdxl-inpaint"}),
    (
        "sdxl that predicts v",
        {**SDXL_FILE, "v_pred": (0,), "ztsnr": (0,)},
        {},
        {
            "family": "sdxl",
            "prediction": "v_prediction",
            "zero_terminal_snr": True,
        },
    ),
    (
        "sdxl by metadata",
        SDXL_FILE,
        {"modelspec.prediction_type": "v"},
        {
            "prediction": "v_prediction",
            "zero_terminal_snr": False,
        },
    ),
    ("ema", {**checkpoint(), "model_ema.decay": ()}, {}, {"components": ("unet", "text", "vae", "ema"), "missing": ()}),
    ("no vae", checkpoint(vae=NOTHING), {}, {"kind": "checkpoint", "missing": ("vae",), "refused": ""}),
    ("no text encoder", checkpoint(text=NOTHING), {}, {"kind": "checkpoint", "missing": ("text",)}),
    ("sdxl without its second", checkpoint(SDXL_UNET, dict(list(SDXL_TEXT.items())[:1])), {}, {"missing": ("text_2",)}),
    (
        "unet alone",
        under("model.diffusion_model.", SD1_UNET),
        {},
        {
            "kind": "unet",
            "family": "sd15",
            "missing": ("text", "vae"),
        },
    ),
    ("bare unet", SD2_UNET, {}, {"kind": "unet", "family": "sd21"}),
    ("bare sdxl unet", SDXL_UNET, {}, {"kind": "unet", "family": "sdxl", "missing": ("text", "text_2", "vae")}),
]


@pytest.mark.parametrize("row", MODELS, ids=[row[0] for row in MODELS])
def test_a_model_in_one_file(tmp_path, row):
    _, shapes, metadata, expected = row
    found = identify(write(tmp_path / "m.safetensors", shapes, "F16", metadata))
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.refused == ""
    assert found.dtype == "F16"


REFINER = {**SDXL_UNET, **{f"input_blocks.{block}.0.in_layers.0.weight": (8,) for block in range(12)}}
DEEP = {name: shape for name, shape in SDXL_UNET.items() if "middle_block" not in name}
REFUSED: list[tuple[str, Mapping[str, Iterable[int]], str, str]] = [
    ("depth2img", checkpoint(channels(SD2_UNET, 5), SD2_TEXT), "checkpoint", "5 input channels.*depth map"),
    ("pix2pix", checkpoint(channels(SD1_UNET, 8)), "checkpoint", "8 input channels.*InstructPix2Pix"),
    ("upscaler", checkpoint(channels(SD2_UNET, 7), SD2_TEXT), "checkpoint", "7 input channels.*enlarge"),
    ("refiner", checkpoint(REFINER, SDXL_TEXT), "checkpoint", "refiner"),
    ("ssd-1b", checkpoint(DEEP, SDXL_TEXT), "checkpoint", "SSD-1B"),
    ("playground", {**SDXL_FILE, "edm_mean": (4,), "edm_std": (4,)}, "checkpoint", r"Playground 2\.5"),
    ("cosxl", {**SDXL_FILE, "edm_vpred.sigma_max": ()}, "checkpoint", "CosXL"),
    ("scaled fp8", {**checkpoint(), "model.diffusion_model.scaled_fp8": (2,)}, "checkpoint", "scaled_fp8"),
    ("scale_weight", {**checkpoint(), "model.diffusion_model.out.2.scale_weight": ()}, "checkpoint", "scaled_fp8"),
    ("nf4", {**checkpoint(), "model.diffusion_model.out.2.weight.absmax": (4,)}, "checkpoint", "bitsandbytes"),
    ("video", {**checkpoint(), "model.diffusion_model.input_blocks.1.0.time_stack.x": (4,)}, "checkpoint", "video"),
    ("unclip", checkpoint({**SD2_UNET, "label_emb.0.0.weight": (8, 8)}, SD2_TEXT), "checkpoint", "unCLIP"),
    ("flux", {"double_blocks.0.img_attn.qkv.weight": (8, 8)}, "other", "Flux"),
    ("flux checkpoint", {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (8, 8)}, "other", "Flux"),
    ("sd3", {"model.diffusion_model.joint_blocks.0.x.weight": (8, 8)}, "other", "SD3"),
    (
        "llm",
        {"model.embed_tokens.weight": (8, 8), "model.layers.0.self_attn.q_proj.weight": (8, 8)},
        "other",
        "language",
    ),
    ("t5", {"encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8)}, "other", "T5"),
    ("controlnet", under("control_model.", SD1_UNET), "other", "ControlNet"),
    (
        "controlnet of diffusers",
        {
            "controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3),
            "conv_in.weight": (8, 4, 3, 3),
            "down_blocks.0.resnets.0.conv1.weight": (8, 8),
        },
        "other",
        "ControlNet",
    ),
    (
        "unet of diffusers",
        {"conv_in.weight": (8, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": (8, 8)},
        "unet",
        "one network of a diffusers folder",
    ),
    ("clip", {"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}, "other", "CLIP text encoder"),
    ("clip image", {"vision_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}, "other", "CLIP image encoder"),
    ("upscaler file", {"model.0.weight": (8, 3, 3, 3)}, "other", "upscaler"),
    ("nothing known", {"something.else": (2,)}, "other", "no known model"),
    ("no tensors", {}, "other", "without tensors"),
    ("flux vae", {**VAE, "decoder.conv_in.weight": (8, 16, 3, 3)}, "vae", "16 channels"),
    ("taesd", {"1.weight": (8, 4, 3, 3), "3.conv.0.weight": (8, 8, 3, 3)}, "vae", "half of an autoencoder"),
    ("flux lora", {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (2, 8)}, "lora", "for Flux"),
    ("flux lora of kohya", {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (2, 8)}, "lora", "for Flux"),
    ("sd3 lora", {"lora_te3_encoder_block_0_layer_0_DenseReluDense_wo.lora_down.weight": (2, 8)}, "lora", "SD3"),
    (
        "face id",
        {
            "image_proj.proj.0.weight": (8, 8),
            "ip_adapter.0.to_q_lora.down.weight": (2, 8),
            "ip_adapter.1.to_k_ip.weight": (8, 8),
        },
        "ip_adapter",
        "FaceID",
    ),
    (
        "full face",
        {"image_proj.proj.0.weight": (8, 8), "ip_adapter.1.to_k_ip.weight": (8, 8)},
        "ip_adapter",
        "full-face",
    ),
]


@pytest.mark.parametrize("row", REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_run_here_is_refused_by_name(tmp_path, row):
    _, shapes, kind, sentence = row
    found = identify(write(tmp_path / "m.safetensors", shapes))
    assert found.kind == kind
    assert re.search(sentence, found.refused), found.refused


def test_quantized_types_are_refused(tmp_path):
    assert "of type I8" in identify(write(tmp_path / "m.safetensors", checkpoint(), "I8")).refused
    assert identify(write(tmp_path / "m.safetensors", checkpoint(), "F8_E4M3")).refused == ""


ADAPTER = {"image_proj.proj.weight": (8, 8)}
PARTS_FOUND: list[tuple[str, Mapping[str, Iterable[int]], dict[str, str], str, tuple[str, ...]]] = [
    ("lora", SD1_LORA, {}, "lora", SD1),
    (
        "lora by prompt width",
        {
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (2, 1024),
        },
        {},
        "lora",
        SD2,
    ),
    ("lora sdxl", SDXL_LORA, {}, "lora", SDXL),
    (
        "lora by its second encoder",
        {
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (2, 8),
        },
        {},
        "lora",
        SDXL,
    ),
    (
        "lora by diffusers' names",
        {"text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": (2, 8)},
        {},
        "lora",
        SDXL,
    ),
    ("lora by text layers", {"lora_te_text_model_encoder_layers_22_mlp_fc1.lora_down.weight": (2, 8)}, {}, "lora", SD2),
    (
        "lora by its trainer",
        {"lora_unet_mid_block_attentions_0_proj_out.lora_down.weight": (2, 8)},
        {"ss_base_model_version": "sdxl_base_v1-0"},
        "lora",
        SDXL,
    ),
    (
        "lora of the first level",
        {
            "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight": (2, 8),
        },
        {},
        "lora",
        (*SD1, *SD2),
    ),
    ("lora that says nothing", {"lora_unet_mid_block_attentions_0_proj_out.lora_down.weight": (2, 8)}, {}, "lora", ()),
    ("loha", {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k.hada_w1_b": (2, 768)}, {}, "lora", SD1),
    (
        "whole differences",
        {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k.diff": (8, 768)},
        {},
        "lora",
        SD1,
    ),
    ("vae", VAE, {}, "vae", ()),
    ("vae of a checkpoint", under("first_stage_model.", VAE), {}, "vae", ()),
    ("vae by metadata", VAE, {"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"}, "vae", SDXL),
    ("embedding", {"emb_params": (3, 768)}, {}, "embedding", SD1),
    ("embedding sd2", {"emb_params": (3, 1024)}, {}, "embedding", SD2),
    ("embedding of diffusers", {"<my-style>": (768,)}, {}, "embedding", SD1),
    ("embedding sdxl", {"clip_l": (2, 768), "clip_g": (2, 1280)}, {}, "embedding", SDXL),
    (
        "adapter",
        {**ADAPTER, **{f"ip_adapter.{2 * i + 1}.to_k_ip.weight": (8, 8) for i in range(16)}},
        {},
        "ip_adapter",
        SD1,
    ),
    (
        "adapter sdxl",
        {**ADAPTER, **{f"ip_adapter.{2 * i + 1}.to_k_ip.weight": (8, 8) for i in range(70)}},
        {},
        "ip_adapter",
        SDXL,
    ),
]


@pytest.mark.parametrize("row", PARTS_FOUND, ids=[row[0] for row in PARTS_FOUND])
def test_a_part_and_the_families_that_it_fits(tmp_path, row):
    _, shapes, metadata, kind, families = row
    found = identify(write(tmp_path / "part.safetensors", shapes, "F16", metadata))
    assert (found.kind, found.families, found.refused) == (kind, families, "")


@pytest.mark.parametrize(
    ("name", "families"),
    [("sdxl_vae", SDXL), ("xlVAEC_c1", SDXL), ("vae-ft-mse-840000-ema-pruned", (*SD1, *SD2)), ("good", ())],
)
def test_the_name_of_a_vae_says_what_nothing_in_it_does(tmp_path, name, families):
    assert identify(write(tmp_path / f"{name}.safetensors", VAE)).families == families


def test_a_pickle_is_refused_by_its_name(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(WeightsError, match=r"a pickled file \(\.ckpt\)"):
        identify(tmp_path / "model.ckpt")


def diffusers_folder(folder: Path, unet: Mapping[str, Any], scheduler: Mapping[str, Any] | None) -> Path:
    """A pipeline's folder with configs and hardly any weights."""
    for part in ("unet", "vae", "text_encoder"):
        (folder / part).mkdir(parents=True)
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        write(folder / part / f"{stem}.safetensors", {"x": (4,)})
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (folder / "unet" / "config.json").write_text(json.dumps(unet))
    if scheduler is not None:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


@pytest.mark.parametrize(
    ("unet", "scheduler", "family", "prediction"),
    [
        ({"in_channels": 4}, {}, "sd15", "epsilon"),
        ({"in_channels": 9}, {}, "sd15-inpaint", "epsilon"),
        (
            {"in_channels": 4, "use_linear_projection": True},
            {"prediction_type": "v_prediction"},
            "sd21",
            "v_prediction",
        ),
        (
            {"in_channels": 9, "addition_embed_type": "text_time", "use_linear_projection": True},
            {},
            "sdxl-inpaint",
            "epsilon",
        ),
    ],
)
def test_a_diffusers_folder(tmp_path, unet, scheduler, family, prediction):
    found = identify(diffusers_folder(tmp_path / "m", unet, scheduler))
    assert (found.kind, found.family, found.prediction, found.refused) == ("folder", family, prediction, "")
    assert found.components == ("unet", "vae", "text")


def test_folders_that_cannot_be_used_say_why(tmp_path):
    assert "5 input channels" in refusal(diffusers_folder(tmp_path / "depth", {"in_channels": 5}, {}))
    assert "scheduler_config.json" in refusal(diffusers_folder(tmp_path / "half", {"in_channels": 4}, None))
    flux = diffusers_folder(tmp_path / "flux", {}, {})
    (flux / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "FluxPipeline" in refusal(flux)
    assert "neither a diffusers model nor a part" in refusal(tmp_path)


def refusal(path: Path) -> str:
    return identify(path).refused


def test_folders_of_parts(tmp_path):
    peft = tmp_path / "peft"
    peft.mkdir()
    write(peft / "adapter_model.safetensors", SD1_LORA)
    assert (identify(peft).kind, identify(peft).path.name) == ("lora", "adapter_model.safetensors")

    vae = tmp_path / "vae"
    vae.mkdir()
    write(vae / "diffusion_pytorch_model.safetensors", VAE)
    (vae / "config.json").write_text('{"_class_name": "AutoencoderKL", "scaling_factor": 0.13025}')
    assert (identify(vae).kind, identify(vae).families) == ("vae", SDXL)

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write(adapter / "ip_adapter.safetensors", {**ADAPTER, "ip_adapter.1.to_k_ip.weight": (8, 8)})
    assert (identify(adapter).kind, identify(adapter).refused) == ("ip_adapter", "")
    with pytest.raises(WeightsError, match=r"it has no image_encoder/ with config\.json and weights; name another's"):
        section_of(identify(adapter))


def test_families_and_sections_are_those_of_the_registry():
    assert {*SD1, *SD2, *SDXL} == set(FAMILIES) - set(TINY)
    assert set(PARTS) | {"models"} <= set(KINDS)
    assert sum(len(kinds) for kinds in KINDS.values()) == len(SECTIONS)
    for family in (*SD1, *SD2, *SDXL):
        assert (FAMILIES[family].in_channels == 9) == family.endswith("-inpaint")


def test_text_encoders_tell_sd2_where_the_unet_does_not(tmp_path):
    """The UNet's own shape and the text encoder's names agree in published files; the encoder's name decides."""
    odd = checkpoint({name: shape for name, shape in SD2_UNET.items() if "proj_in" not in name}, SD2_TEXT)
    assert identify(write(tmp_path / "m.safetensors", odd)).family == "sd21"
