"""The trained parts as a folder in diffusers' layout, float16 safetensors, replaced as a whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderTiny

from tools.train_tiny import autoencoder, denoiser, networks, tokenizer
from tools.train_tiny.settings import Settings

LARGEST = 20_000_000  # bytes, all files together
INDEX = {"_class_name": "StableDiffusionInpaintPipeline", "_diffusers_version": diffusers.__version__}
PARTS = {
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}


def trained_autoencoder(folder: Path) -> AutoencoderTiny:
    """The autoencoder of the checkpoint in `folder`, with its scaling factor."""
    saved = torch.load(folder / "autoencoder.pt", map_location="cpu")
    model = autoencoder.build()
    model.load_state_dict(saved["model"])
    model.register_to_config(scaling_factor=saved["scaling_factor"])
    return model.eval()


def folder_bytes(folder: Path) -> int:
    """Size of all files of a folder together, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def clean_configurations(folder: Path) -> None:
    """Take out where the weights lay when they were saved, and what AutoencoderTiny writes but refuses to read."""
    for path in folder.glob("*/config.json"):
        content = json.loads(path.read_text())
        content.pop("_name_or_path", None)
        if content.get("_class_name") == "AutoencoderTiny":
            content.pop("block_out_channels", None)
        _write_json(path, content)


def export(settings: Settings, folder: Path, target: Path) -> int:
    """Write the model folder; returns the training step of its UNet. Refuses what is larger than 20 MB."""
    unet, text, step = denoiser.averaged(folder, settings)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    unet.half().save_pretrained(partial / "unet")
    trained_autoencoder(folder).half().save_pretrained(partial / "vae")
    text.half().save_pretrained(partial / "text_encoder")
    tokenizer.save(partial / "tokenizer")
    _write_json(partial / "scheduler" / "scheduler_config.json", networks.SCHEDULER)
    _write_json(partial / "model_index.json", {**INDEX, **PARTS})
    clean_configurations(partial)
    size = replace_folder(partial, target)
    print(f"{target.name}: step {step}, {size / 1e6:.2f} MB", flush=True)
    return step


def replace_folder(partial: Path, target: Path) -> int:
    """Put a complete folder in another's place, which keeps its README.md; returns its bytes, at most 20 MB."""
    for path in partial.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors' writer leaves them to the owner alone
    if (target / "README.md").exists():
        shutil.copy(target / "README.md", partial / "README.md")
    size = folder_bytes(partial)
    if size > LARGEST:
        raise ValueError(f"{partial}: {size} bytes, at most {LARGEST} are allowed")
    former = target.with_name(target.name + ".former")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        os.replace(target, former)
    os.replace(partial, target)
    shutil.rmtree(former, ignore_errors=True)
    return size
