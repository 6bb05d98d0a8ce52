"""What is measured, as data: one request each, for us and for the peers."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

import inlay
from tools.train_tiny.scenes import MEASURING, draw_scene

SIZE, STEPS, STRENGTH, GUIDANCE, SEED = 512, 21, 0.7, 7.5, 3
SCHEDULER = "DPMSolverMultistepScheduler"


def job() -> tuple[Image.Image, Image.Image, str]:
    """Picture, mask, prompt."""
    scene = draw_scene("measure", 5, SIZE, MEASURING)
    return Image.fromarray(scene.background), Image.fromarray(scene.mask), scene.caption


def ours(engine: inlay.Engine) -> Callable[[], inlay.Result]:
    """The job as a request."""
    image, mask, prompt = job()
    request = inlay.InpaintRequest(
        prompt=prompt, init_image=image, mask_image=mask, steps=STEPS, strength=STRENGTH, guidance_scale=GUIDANCE,
        seed=SEED, scheduler=SCHEDULER, clip_skip=1,
    )  # fmt: skip
    return lambda: engine.run(request)
