"""The packaged model through diffusers' own pipeline and through ours: same folder, same noise, same picture."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="the oracle needs diffusers: pip install 'inlay[oracle]'")

import diffusers
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint
from PIL import Image

import inlay
from tools.train_tiny.scenes import MEASURING, draw_scene

SIZE, SEED = 256, 21
SAMPLERS = [
    ("EulerDiscreteScheduler", False),
    ("DPMSolverMultistepScheduler", True),
    ("UniPCMultistepScheduler", False),
    ("PNDMScheduler", False),
]


@pytest.fixture(scope="module")
def engine():
    with inlay.Engine("torch", "cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def pipeline(engine):
    folder = engine.registry.find("inlay-tiny").path
    made = StableDiffusionInpaintPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("strength", [1.0, 0.7])
@pytest.mark.parametrize(("sampler", "karras"), SAMPLERS, ids=[name for name, _ in SAMPLERS])
def test_same_picture_as_diffusers(engine, pipeline, monkeypatch, sampler, karras, strength):
    scene = draw_scene("measure", 7, SIZE, MEASURING)
    request = inlay.InpaintRequest(
        prompt=scene.caption, init_image=scene.background, mask_image=scene.mask, seed=SEED, steps=20, width=SIZE,
        height=SIZE, strength=strength, guidance_scale=4.0, scheduler=sampler, karras_sigmas=karras, clip_skip=1,
    )  # fmt: skip
    ours = np.asarray(engine.run(request).generated[0], np.float64)

    # diffusers carries options over from one scheduler's config to the next: say it either way
    pipeline.scheduler = getattr(diffusers, sampler).from_config(pipeline.scheduler.config, use_karras_sigmas=karras)
    noise = torch.from_numpy(inlay.noise(SEED, (4, SIZE // 8, SIZE // 8)))[None]
    monkeypatch.setattr(inpaint, "randn_tensor", lambda *args, **kwargs: noise.clone())
    theirs = pipeline(
        prompt=scene.caption, negative_prompt="", image=Image.fromarray(scene.background),
        mask_image=Image.fromarray(scene.mask), height=SIZE, width=SIZE, num_inference_steps=20, strength=strength,
        guidance_scale=4.0, output_type="np",
    ).images[0]  # fmt: skip
    psnr = 10 * np.log10(255**2 / max(np.mean((ours - theirs * 255) ** 2), 1e-9))
    # Ours is rounded to 8 bits, which alone leaves 58.9 dB.
    assert psnr >= 50, f"{sampler} strength {strength}: {psnr:.1f} dB"
