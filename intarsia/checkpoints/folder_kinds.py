"""Folders: diffusers' models and networks, PEFT's LoRAs, IP adapters; by configs, and headers of weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from intarsia.checkpoints.files import is_there, read_json
from intarsia.checkpoints.header import read_header
from intarsia.checkpoints.identified import SD1, SD2, SDXL, Identified, Prediction, main_dtype
from intarsia.checkpoints.layout import COMPONENTS, SCHEDULER, files_read, find_weights
from intarsia.checkpoints.lora_families import find_lora
from intarsia.checkpoints.part_kinds import find_ip_adapter, vae_families
from intarsia.errors import WeightsError, shown

__all__ = ["find_folder", "folder_version"]

_SDXL_SCALE = 0.13025
_COMPONENT_NAMES = {"unet": "unet", "vae": "vae", "text_encoder": "text", "text_encoder_2": "text_2"}
# Names of a LoRA's file in a folder that PEFT or diffusers wrote.
_LORA_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


def find_folder(folder: Path) -> Identified:
    """What a folder is; kind "other" where it is nothing that runs here.

    Raises:
        WeightsError: a config or a header that cannot be read.
    """
    if is_there(folder / "model_index.json"):
        return _model(folder)
    for name in _LORA_FILES:
        if is_there(folder / name):
            return _lora(folder / name)
    if is_there(folder / "ip_adapter.safetensors"):
        return _ip_adapter(folder)
    if is_there(folder / "config.json"):
        return _network(folder)
    return _other(folder, "a folder that is neither a diffusers model nor a part of one")


def _model(folder: Path) -> Identified:
    """A pipeline's folder. Its UNet's config says of which family it is."""
    pipeline = str(read_json(folder / "model_index.json").get("_class_name", ""))
    if not pipeline.startswith("StableDiffusion") or pipeline.startswith("StableDiffusion3"):
        return _other(folder, f"a diffusers folder of another family ({shown(pipeline)})")

    config = read_json(folder / "unet" / "config.json")
    versions = _version(config)
    channels = config.get("in_channels")
    family = versions[1] if channels == 9 else versions[0]
    weights = find_weights(folder / "unet", COMPONENTS["unet"])
    tensors = [tensor for path in weights for tensor in read_header(path).tensors.values()]
    prediction, is_zero = _schedule(folder)
    components = tuple(name for part, name in _COMPONENT_NAMES.items() if (folder / part).is_dir())
    return Identified(
        path=folder,
        kind="folder",
        what="a diffusers folder",
        families=(family,),
        prediction=prediction,
        zero_terminal_snr=is_zero,
        dtype=main_dtype(tensors),
        components=components,
        size=_bytes(files_read("models", folder)),
        refused=_refused(folder, channels),
    )


def folder_version(folder: Path) -> tuple[str, ...]:
    """The families of a model's version of Stable Diffusion; empty where its UNet has no config."""
    path = folder / "unet" / "config.json"
    return _version(read_json(path)) if is_there(path) else ()


def _version(unet: Mapping[str, Any]) -> tuple[str, ...]:
    if unet.get("addition_embed_type") == "text_time":
        return SDXL
    return SD2 if unet.get("use_linear_projection") else SD1


def _schedule(folder: Path) -> tuple[Prediction, bool]:
    if not is_there(folder / SCHEDULER):
        return "epsilon", False
    config = read_json(folder / SCHEDULER)
    is_velocity = config.get("prediction_type") == "v_prediction"
    return ("v_prediction" if is_velocity else "epsilon"), config.get("rescale_betas_zero_snr") is True


def _refused(folder: Path, channels: Any) -> str:
    if channels not in (4, 9):
        return f"its UNet has {shown(channels)} input channels, not 4 or 9"
    for part, stem in COMPONENTS.items():
        if part != "unet" and not (folder / part).is_dir():
            continue  # another model's may stand for it
        try:
            find_weights(folder / part, stem)
        except WeightsError as exc:
            return str(exc)
    if not is_there(folder / SCHEDULER):
        return f"it has no {SCHEDULER}"
    return ""


def _lora(path: Path) -> Identified:
    return find_lora(read_header(path)) or _other(path, "a folder of a LoRA without matrices")


def _ip_adapter(folder: Path) -> Identified:
    header = read_header(folder / "ip_adapter.safetensors")
    adapter = find_ip_adapter(header)
    if adapter is None:
        return _other(folder, "a folder whose ip_adapter.safetensors is no IP adapter")
    return Identified(
        path=folder,
        kind="ip_adapter",
        what=adapter.what,
        families=adapter.families,
        dtype=adapter.dtype,
        size=_bytes(files_read("ip_adapters", folder)),
        refused=adapter.refused,
    )


def _network(folder: Path) -> Identified:
    """The folder of one network, by the class that its config names."""
    config = read_json(folder / "config.json")
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    name = str(config.get("_class_name") or next(iter(names), ""))

    if name in ("AutoencoderKL", "AutoencoderTiny"):
        return _vae(folder, config)
    if name == "StableDiffusionSafetyChecker":
        size = _bytes(files_read("safety", folder))
        return Identified(path=folder, kind="safety", what="a safety checker", size=size)
    if name == "UNet2DConditionModel":
        return _other(folder, "the UNet of a diffusers folder; add the folder above it")
    if name.startswith("ControlNet"):
        return _other(folder, "a ControlNet")
    return _other(folder, f"a folder of one network ({shown(name)})")


def _vae(folder: Path, config: Mapping[str, Any]) -> Identified:
    files = find_weights(folder, COMPONENTS["vae"])
    tensors = [tensor for path in files for tensor in read_header(path).tensors.values()]
    latents = config.get("latent_channels", 4)
    families = SDXL if config.get("scaling_factor") == _SDXL_SCALE else vae_families(folder.name)
    return Identified(
        path=folder,
        kind="vae",
        what="a VAE",
        families=families,
        dtype=main_dtype(tensors),
        components=("vae",),
        size=_bytes(files_read("vaes", folder)),
        refused="" if latents == 4 else f"its latents have {shown(latents)} channels, not 4",
    )


def _other(path: Path, what: str) -> Identified:
    return Identified(path=path, kind="other", what=what, refused=f"it is {what}")


def _bytes(files: Iterable[Path]) -> int:
    return sum(os.stat(file).st_size for file in files)
