"""diffusers' own SDXL inpainting pipeline on a folder, with our noise: what a backend's image is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_inpaint as xl_inpaint
from PIL import Image

import intarsia

HEIGHT, WIDTH, STEPS, SEED = 64, 128, 4, 11
SCHEDULER = "EulerDiscreteScheduler"


def image_and_mask() -> tuple[np.ndarray, np.ndarray]:
    """An image that is not square, and a mask off its centre."""
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8:40, 24:104] = 255
    return image, mask


def request(model: str, **fields: Any) -> intarsia.InpaintRequest:
    """What ``reference`` draws, for an engine."""
    image, mask = image_and_mask()
    settings = {
        "scheduler": SCHEDULER,
        "steps": STEPS,
        "strength": 1.0,
        "seed": SEED,
        "clip_skip": 1,
        "karras_sigmas": False,
    }
    size = {"width": WIDTH, "height": HEIGHT}
    return intarsia.InpaintRequest(model=model, init_image=image, mask_image=mask, **{**settings, **size, **fields})


def reference(folder: Path, prompt: str, negative: str | None) -> np.ndarray:
    """float64 ``[HEIGHT, WIDTH, 3]`` on the scale 0…255. An absent negative prompt is None."""
    pipe = StableDiffusionXLInpaintPipeline.from_pretrained(folder, torch_dtype=torch.float32, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = getattr(diffusers, SCHEDULER).from_config(pipe.scheduler.config)
    noise = torch.from_numpy(intarsia.noise(SEED, (4, HEIGHT // 8, WIDTH // 8)))[None]
    image, mask = image_and_mask()
    with (
        patch.object(xl_inpaint, "randn_tensor", lambda *_, **__: noise.clone()),
        patch.object(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean),
    ):
        made = pipe(
            prompt=prompt, negative_prompt=negative, image=Image.fromarray(image), mask_image=Image.fromarray(mask),
            height=HEIGHT, width=WIDTH, strength=1.0, num_inference_steps=STEPS, guidance_scale=4.0, output_type="np",
        )  # fmt: skip
    return made.images[0].astype(np.float64) * 255


def psnr(result: Any, wanted: np.ndarray) -> float:
    """Of what was drawn, in dB; rounding to 8 bits alone leaves 58.9."""
    found = np.asarray(result.generated[0], np.float64)
    return float(10 * np.log10(255**2 / max(np.mean((found - wanted) ** 2), 1e-9)))


# Prompt, negative prompt as we take it, and as diffusers does; the last pair of each order shares the empty text.
ORDERS = {
    "zeroed first": (("ab", "", None), ("", "", None)),
    "encoded first": (("", "ab", "ab"), ("", "", None)),
    "together": (("", "", None), ("ab", "", None)),
}
