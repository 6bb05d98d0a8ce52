"""Models in one file: Stable Diffusion 1, 2 and XL by the names and shapes of the original code's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from intarsia.checkpoints.header import Header, StoredTensor
from intarsia.checkpoints.identified import SD1, SD2, SDXL, Identified, Prediction, main_dtype

__all__ = ["UNET_PREFIXES", "find_checkpoint"]

UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
"""What the names of a UNet's tensors begin with, in whole checkpoints and in files of a UNet alone."""

_FIRST = "input_blocks.0.0.weight"
_DIFFUSERS_FIRST = "conv_in.weight"

# How the names of the other networks begin; the first text encoder differs by version.
_OTHERS = {
    "text": ("cond_stage_model.", "conditioner.embedders.0.transformer."),
    "text_2": ("conditioner.embedders.1.model.",),
    "vae": ("first_stage_model.",),
    "ema": ("model_ema.",),
}
_VERSIONS: dict[tuple[str, ...], str] = {SD1: "Stable Diffusion 1", SD2: "Stable Diffusion 2", SDXL: "SDXL"}

# Input channels of networks that take something besides what a family of ours takes.
_CHANNELS = {
    5: "a depth map (depth2img)",
    7: "a small image to enlarge (an upscaler)",
    8: "an image beside the latents (InstructPix2Pix, Zero123)",
}
# Names that tell a variant whose weights mean something else.
_VARIANTS = {
    r"(^|\.)edm_(mean|std)$": "Playground 2.5's (EDM) training",
    r"(^|\.)edm_vpred\.sigma_(max|min)$": "CosXL's (EDM v-prediction) training",
    r"\.time_stack\.|\.time_mixer\b|temporal_transformer": "a video model's layers (Stable Video Diffusion)",
    r"(^|\.)motion_modules\.": "AnimateDiff's motion layers",
    r"(^|\.)cond_stage_model\.visual\.|^noise_augmentor\.|^embedder\.": "an image encoder for prompts (unCLIP)",
    r"(^|\.)time_embed_cond\.|\.cond_proj\.weight$": "a guidance embedding (a distilled LCM network)",
}
_QUANTIZED = {
    r"(^|\.)scaled_fp8$|\.scale_weight$|\.weight_scale$|\.scale_input$": "fp8 with separate scales (scaled_fp8)",
    r"\.quant_map$|\.absmax$|\.quant_state\.": "4 or 8 bits of bitsandbytes",
    r"\.SCB$|\.comfy_quant$|\.qweight$|\.qzeros$": "quantized integers",
}
_READ = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def find_checkpoint(header: Header) -> Identified | None:
    """The model in a file; None where there is no UNet of Stable Diffusion."""
    tensors = header.tensors
    prefix = next((prefix for prefix in UNET_PREFIXES if prefix + _FIRST in tensors), None)
    if prefix is None:
        return _in_diffusers_names(header)

    unet = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    components = ["unet"]
    for component, beginnings in _OTHERS.items():
        if any(name.startswith(beginnings) for name in tensors):
            components.append(component)

    versions = _version(tensors, unet)
    channels = _channels(unet[_FIRST])
    family = versions[1] if channels == 9 else versions[0]
    is_whole = "text" in components or "vae" in components
    part = "checkpoint" if is_whole else "UNet without text encoders and VAE"
    inpainting = " inpainting" if channels == 9 else ""
    return Identified(
        path=header.path,
        kind="checkpoint" if is_whole else "unet",
        what=f"{'an' if versions == SDXL else 'a'} {_VERSIONS[versions]}{inpainting} {part}",
        families=(family,),
        prediction=_prediction(header, family),
        zero_terminal_snr=any(name.split(".")[-1] == "ztsnr" for name in tensors),
        dtype=main_dtype(unet.values()),
        components=tuple(components),
        size=header.size,
        refused=_refused(header, unet, channels, versions),
        title=header.metadata.get("modelspec.title", ""),
    )


def _in_diffusers_names(header: Header) -> Identified | None:
    """A UNet alone with diffusers' names, which belongs into a folder."""
    first = header.tensors.get(_DIFFUSERS_FIRST)
    has_blocks = any(re.match(r"down_blocks\.\d+\.", name) for name in header.tensors)
    is_controlnet = any(name.startswith("controlnet_") for name in header.tensors)
    if first is None or not has_blocks or is_controlnet:
        return None
    return Identified(
        path=header.path,
        kind="unet",
        what="a UNet in diffusers' names",
        dtype=main_dtype(header.tensors.values()),
        components=("unet",),
        size=header.size,
        refused="it is one network of a diffusers folder; add the folder that has model_index.json",
    )


def _version(tensors: Mapping[str, StoredTensor], unet: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    """By the size vector that only SDXL's UNet takes; by its transformers' input, a matrix from SD2 on."""
    if "label_emb.0.0.weight" in unet and not any(name.startswith("cond_stage_model.") for name in tensors):
        return SDXL
    if any(name.startswith("cond_stage_model.model.") for name in tensors):
        return SD2

    inputs = (tensor for name, tensor in unet.items() if name.endswith(".proj_in.weight"))
    proj_in = next(inputs, None)
    is_matrix = proj_in is not None and len(proj_in.shape) == 2
    return SD2 if is_matrix else SD1


def _channels(first: StoredTensor) -> int:
    """Input channels of the UNet's first convolution; 0 where it is none."""
    return first.shape[1] if len(first.shape) == 4 else 0


def _prediction(header: Header, family: str) -> Prediction:
    """What the file states; else v of SD2's 4-channel models, most of which are made from 2.1-768, and else epsilon."""
    if any(name.split(".")[-1] == "v_pred" for name in header.tensors):
        return "v_prediction"

    stated = header.metadata.get("modelspec.prediction_type", "").lower()
    if stated:
        return "v_prediction" if stated.startswith("v") else "epsilon"

    # "stable-diffusion-v2-768-v" and "stable-diffusion-v2-512" have the same tensors
    architecture = header.metadata.get("modelspec.architecture", "").lower()
    if architecture.startswith("stable-diffusion-v2-512"):
        return "epsilon"
    return "v_prediction" if family == "sd21" else "epsilon"


def _refused(header: Header, unet: Mapping[str, StoredTensor], channels: int, versions: tuple[str, ...]) -> str:
    """Why a network with a UNet's names is none that runs here; "" where it is one."""
    for pattern, what in {**_VARIANTS, **_QUANTIZED}.items():
        if any(re.search(pattern, name) for name in header.tensors):
            return f"it has {what}, which is not supported"

    dtype = main_dtype(unet.values())
    if dtype not in _READ:
        return f"its weights are of type {dtype}, which is not supported"
    if channels not in (4, 9):
        takes = _CHANNELS.get(channels, "something else")
        return f"its UNet has {channels} input channels, not 4 or 9: it takes {takes}"
    if versions == SDXL:
        return _refused_sdxl(unet)
    return "its prompts are those of unCLIP" if "label_emb.0.0.weight" in unet else ""


def _refused_sdxl(unet: Mapping[str, StoredTensor]) -> str:
    """SDXL's refiner has attention from the second of four levels on, in four layers each; SDXL has three levels."""
    blocks = {name.split(".")[1] for name in unet if name.startswith("input_blocks.")}
    if len(blocks) > 9:
        return "it is SDXL's refiner, which continues the images of another model"
    if "middle_block.1.proj_in.weight" not in unet:
        return "it is an SDXL without attention in the middle (SSD-1B, Segmind-Vega), which is not supported"
    return ""
