"""The jobs: one image, one mask, and the request that a case makes of them."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

import intarsia
from benchmarks.cases import Case

PROMPT, SEED = "a red circle", 3


def pictures(width: int, height: int) -> tuple[Image.Image, Image.Image]:
    """An image with coarse and fine structure, and a mask over a fifth of it."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width] / min(width, height)
    ramps = np.stack([60 + 120 * x, 200 - 90 * y, 128 + 60 * np.sin(7 * x + 5 * y)], axis=-1)
    image = np.clip(ramps + rng.normal(0, 12, ramps.shape), 0, 255).astype(np.uint8)
    mask = ((x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.25**2).astype(np.uint8) * 255
    return Image.fromarray(image), Image.fromarray(mask)


def requests(case: Case, model: str | None, *, size: tuple[int, int] | None = None) -> list[intarsia.InpaintRequest]:
    """The case's images, up to four a request, seeds one after the other."""
    width, height = size or (case.size, case.size)
    image, mask = pictures(width, height)
    return [
        intarsia.InpaintRequest(
            prompt=PROMPT, model=model, init_image=image, mask_image=mask, width=width, height=height,
            steps=case.steps, strength=case.strength, guidance_scale=case.guidance, scheduler=case.scheduler,
            seed=SEED + first, samples=min(4, case.batch - first), clip_skip=1,
            token_merging=case.token_merging or None,
        )
        for first in range(0, case.batch, 4)
    ]  # fmt: skip


def mixed(case: Case, model: str | None) -> list[intarsia.InpaintRequest]:
    """A load as it arrives: any documented scheduler, 10–50 steps, strength 0.3–1, seeded."""
    rng = random.Random(SEED)
    image, mask = pictures(case.size, case.size)
    most = 50 if case.steps > 10 else case.steps
    return [
        intarsia.InpaintRequest(
            prompt=PROMPT, model=model, init_image=image, mask_image=mask, width=case.size, height=case.size,
            steps=rng.randint(min(10, most), most), strength=round(rng.uniform(0.3, 1.0), 2),
            guidance_scale=case.guidance, scheduler=rng.choice(intarsia.schedulers.NAMES),
            seed=SEED + place, clip_skip=1,
        )
        for place in range(case.requests)
    ]  # fmt: skip
