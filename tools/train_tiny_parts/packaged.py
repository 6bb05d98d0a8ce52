"""The packaged networks, as the start of every training here, and how batches are drawn for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from tools.train_tiny.denoiser import Networks
from tools.train_tiny.settings import DenoiserSettings, read_settings
from tools.train_tiny_parts.examples import MODEL


def packaged() -> Networks:
    """The packaged UNet and text encoder, float32, fixed."""
    unet = UNet2DConditionModel.from_pretrained(MODEL / "unet", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(MODEL / "text_encoder", dtype=torch.float32)
    unet = unet.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    return Networks(unet, text.requires_grad_(False).eval(), [], ())


def whole(model: Path, folder: Path) -> Path:
    """A packaged model with the networks that it shares, as a folder that diffusers opens: links in ``folder``."""
    for source in (MODEL, model):
        for path in source.iterdir():
            link = folder / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path)
    return folder


def batches_of_truth() -> DenoiserSettings:
    """How batches are drawn: as for the network itself, but from true latents alone, without dropped captions."""
    return replace(read_settings().denoiser, own_share=0.0, dropout_low=0.0, dropout_high=0.0)
