"""The whole path against diffusers' own inpainting pipeline: same weights, same noise, same image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="the oracle needs diffusers: pip install 'intarsia[oracle]'")

import diffusers
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint
from PIL import Image

import intarsia
from tests.random_model import write_model, write_registry

SIZE, STEPS, SEED = 128, 7, 11
SAMPLERS = [
    ("EulerDiscreteScheduler", False),
    ("DPMSolverMultistepScheduler", True),
    ("UniPCMultistepScheduler", False),
    ("PNDMScheduler", False),
    ("HeunDiscreteScheduler", False),
    ("DPMSolverSinglestepScheduler", True),
]
KINDS = {
    "nine-kl": (9, "kl", "sd15-inpaint"),
    "nine-tiny": (9, "tiny", "sd15-inpaint"),
    "four": (4, "tiny", "sd15"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    entries = {}
    for name, (channels, vae, family) in KINDS.items():
        entries[name] = (write_model(folder / name, channels, vae), family)
    return folder, write_registry(folder / "weights.toml", **entries)


@pytest.fixture(scope="module")
def engine(models: tuple[Path, Path]) -> Iterator[intarsia.Engine]:
    with intarsia.Engine(backend="torch", device="cpu", weights=models[1]) as opened:
        yield opened


@pytest.fixture(scope="module")
def image_and_mask() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    ramp = np.linspace(0, 255, SIZE)[:, None, None] * np.array([0.9, 0.4, 0.7])
    image = np.clip(ramp + rng.normal(0, 20, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = ((x - 60) ** 2 + (y - 70) ** 2 < 37**2).astype(np.uint8) * 255
    return image, mask


def theirs(
    folder: Path,
    image_and_mask: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    karras: bool,
    strength: float,
) -> np.ndarray:
    """diffusers' pipeline with our noise, float32, the posterior's mode instead of a sample."""
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    options = {"use_karras_sigmas": True} if karras else {}
    pipe.scheduler = getattr(diffusers, sampler).from_config(pipe.scheduler.config, **options)
    noise = torch.from_numpy(intarsia.noise(SEED, (4, SIZE // 8, SIZE // 8)))[None]
    monkeypatch.setattr(inpaint, "randn_tensor", lambda *args, **kwargs: noise.clone())
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)
    image, mask = image_and_mask
    made = pipe(
        prompt="ab", negative_prompt="", image=Image.fromarray(image), mask_image=Image.fromarray(mask),
        height=SIZE, width=SIZE, strength=strength, num_inference_steps=STEPS, guidance_scale=4.0,
        output_type="np",
    )  # fmt: skip
    return made.images[0] * 255


@pytest.mark.every(8)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1.0, 0.7])
@pytest.mark.parametrize(("sampler", "karras"), SAMPLERS, ids=[name for name, _ in SAMPLERS])
def test_same_image_as_diffusers(engine, models, image_and_mask, monkeypatch, kind, sampler, karras, strength):
    image, mask = image_and_mask
    request = intarsia.InpaintRequest(
        prompt="ab", init_image=image, mask_image=mask, model=kind,
        width=SIZE, height=SIZE, seed=SEED, steps=STEPS, strength=strength,
        guidance_scale=4.0, scheduler=sampler, karras_sigmas=karras, clip_skip=1,
    )  # fmt: skip
    ours = np.asarray(engine.run(request).generated[0], np.float64)
    reference = theirs(models[0] / kind, image_and_mask, monkeypatch, sampler, karras, strength)
    assert reference.std() > 5, "a flat picture tells nothing"
    assert np.mean((reference > 0) & (reference < 255)) > 0.5, "a clipped picture tells nothing"
    error = max(np.mean((ours - reference) ** 2), 1e-9)
    psnr = 10 * np.log10(255**2 / error)
    # Ours is rounded to 8 bits, which alone leaves 10·log10(12·255²) = 58.9 dB.
    assert psnr > 50, f"{kind} {sampler} strength {strength}: {psnr:.1f} dB"
