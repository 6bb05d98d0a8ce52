"""UNet shapes of the published families, as data.

They need no file: enough to count, to time with random weights, or to read a checkpoint that has no config.
"""

from __future__ import annotations

from dataclasses import replace

from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import KLConfig

SD15 = UNetConfig(sample_size=64)
"""Stable Diffusion 1.4, 1.5 and what was trained from them."""

SD15_INPAINT = replace(SD15, in_channels=9)
"""Nine channels: noisy latents, mask, latents of the masked image."""

SD2 = replace(
    SD15,
    heads=(5, 10, 20, 20),
    cross_attention_dim=(1024,) * 4,
    linear_projection=True,
)
"""Stable Diffusion 2.0 and 2.1 at 512²; those for 768² differ in ``sample_size`` and in what they predict."""

SD2_INPAINT = replace(SD2, in_channels=9)

SDXL = UNetConfig(
    block_out_channels=(320, 640, 1280),
    down_attention=(False, True, True),
    up_attention=(True, True, False),
    layers_per_block=(2, 2, 2),
    transformer_layers=(1, 2, 10),
    heads=(5, 10, 20),
    cross_attention_dim=(2048,) * 3,
    linear_projection=True,
    addition_time_embed_dim=256,
    added_inputs=2816,
    sample_size=128,
)
"""Stable Diffusion XL base and what was trained from it (Pony among them)."""

SDXL_INPAINT = replace(SDXL, in_channels=9)

UNETS: dict[str, UNetConfig] = {
    "sd15": SD15,
    "sd15-inpaint": SD15_INPAINT,
    "sd2": SD2,
    "sd2-inpaint": SD2_INPAINT,
    "sdxl": SDXL,
    "sdxl-inpaint": SDXL_INPAINT,
}
"""By the family names of weights.toml."""

VAES: dict[str, KLConfig] = {
    "sd15": KLConfig(scaling_factor=0.18215),
    "sd15-inpaint": KLConfig(scaling_factor=0.18215),
    "sd2": KLConfig(scaling_factor=0.18215),
    "sd2-inpaint": KLConfig(scaling_factor=0.18215),
    "sdxl": KLConfig(scaling_factor=0.13025),
    "sdxl-inpaint": KLConfig(scaling_factor=0.13025),
}
