"""The trained parts as packaged files: single safetensors, an IP adapter's folder, and model folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffusers import UNet2DConditionModel

from tools.train_tiny.export import clean_configurations, replace_folder
from tools.train_tiny.settings import REPOSITORY
from tools.train_tiny_parts.examples import MODEL

ASSETS = REPOSITORY / "intarsia" / "assets"
SHARED = ("vae", "text_encoder", "tokenizer")
"""Folders that only the packaged model has: the entries of the others name it, and so 40 MB hold three UNets."""


def export_file(source: Path, section: str) -> Path:
    """Copy one safetensors file to the packaged files of a registry section; returns where it lies now."""
    target = ASSETS / section / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    print(f"{target.relative_to(ASSETS)}: {target.stat().st_size} bytes", flush=True)
    return target


def export_folder(source: Path, target: Path) -> None:
    """Copy a folder of a part to the packaged files, replaced as a whole."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    size = replace_folder(partial, target)
    print(f"{target.relative_to(ASSETS)}: {size} bytes", flush=True)


def export_model(unet: UNet2DConditionModel, name: str, pipeline: str = "StableDiffusionInpaintPipeline") -> None:
    """Write a model folder with a UNet in float16 and the packaged model's scheduler; its entry names the rest.

    Args:
        pipeline: the class in ``model_index.json``.
    """
    target = ASSETS / name
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(MODEL, partial, ignore=shutil.ignore_patterns("unet", "README.md", *SHARED))
    unet.half().save_pretrained(partial / "unet")
    clean_configurations(partial)
    index = partial / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps({**content, "_class_name": pipeline}, indent=2) + "\n", encoding="utf-8")
    size = replace_folder(partial, target)
    print(f"{name}: {size / 1e6:.2f} MB", flush=True)
