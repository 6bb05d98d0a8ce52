"""The packaged model through diffusers' own pipeline and through ours: same folder, same noise, same image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="the oracle needs diffusers: pip install 'intarsia[oracle]'")

import diffusers
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint
from PIL import Image

import intarsia
from tools.train_tiny.scenes import MEASURING, draw_scene

SIZE, SEED = 256, 21
SAMPLERS = [
    ("EulerDiscreteScheduler", False),
    ("DPMSolverMultistepScheduler", True),
    ("UniPCMultistepScheduler", False),
    ("PNDMScheduler", False),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[intarsia.Engine]:
    with intarsia.Engine("torch", "cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def pipeline(engine: intarsia.Engine) -> StableDiffusionInpaintPipeline:
    folder = engine.registry.find("intarsia-tiny").path
    made = StableDiffusionInpaintPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.every(9)
@pytest.mark.parametrize("strength", [1.0, 0.7])
@pytest.mark.parametrize(("sampler", "karras"), SAMPLERS, ids=[name for name, _ in SAMPLERS])
def test_same_image_as_diffusers(engine, pipeline, monkeypatch, sampler, karras, strength):
    psnr = likeness(engine, pipeline, monkeypatch, sampler, karras, strength=strength, guidance_scale=4.0)
    # Ours is rounded to 8 bits, which alone leaves 58.9 dB.
    assert psnr >= 50, f"{sampler} strength {strength}: {psnr:.1f} dB"


@pytest.mark.every(2)
@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_without_guidance_it_is_the_prompts_half_alone_as_in_diffusers(engine, pipeline, monkeypatch, guidance):
    asked = {"strength": 1.0, "guidance_scale": guidance, "negative_prompt": "a red circle"}
    psnr = likeness(engine, pipeline, monkeypatch, "EulerDiscreteScheduler", False, steps=8, **asked)
    assert psnr >= 50, f"guidance {guidance}: {psnr:.1f} dB"


def likeness(
    engine: intarsia.Engine,
    pipeline: StableDiffusionInpaintPipeline,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    karras: bool,
    *,
    steps: int = 12,
    negative_prompt: str = "",
    **asked: Any,
) -> float:
    """PSNR in dB of our image and that of diffusers' pipeline."""
    scene = draw_scene("measure", 7, SIZE, MEASURING)
    asked |= {"prompt": scene.caption, "negative_prompt": negative_prompt, "width": SIZE, "height": SIZE}
    request = intarsia.InpaintRequest(
        init_image=scene.background, mask_image=scene.mask, seed=SEED, steps=steps, scheduler=sampler,
        karras_sigmas=karras, clip_skip=1, **asked,
    )  # fmt: skip
    ours = np.asarray(engine.run(request).generated[0], np.float64)

    # diffusers carries options over from one scheduler's config to the next: say it either way
    pipeline.scheduler = getattr(diffusers, sampler).from_config(pipeline.scheduler.config, use_karras_sigmas=karras)
    noise = torch.from_numpy(intarsia.noise(SEED, (4, SIZE // 8, SIZE // 8)))[None]
    monkeypatch.setattr(inpaint, "randn_tensor", lambda *args, **kwargs: noise.clone())
    theirs = pipeline(
        image=Image.fromarray(scene.background), mask_image=Image.fromarray(scene.mask), num_inference_steps=steps,
        output_type="np", **asked,
    ).images[0]  # fmt: skip
    return 10 * np.log10(255**2 / max(np.mean((ours - theirs * 255) ** 2), 1e-9))
