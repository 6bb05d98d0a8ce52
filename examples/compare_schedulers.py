"""Schedulers at few steps against one at many, as a table: ``python examples/compare_schedulers.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import intarsia

SCHEDULERS = ("euler", "heun", "dpm++ 2m", "unipc", "ddim", "euler a")
STEPS = 8


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (128, 128), "navy")
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse((32, 32, 96, 96), fill=255)
    shared = {"init_image": image, "mask_image": mask, "prompt": "a red circle", "strength": 1.0, "seed": 7}

    with intarsia.Engine() as engine:
        reference = engine.run(intarsia.InpaintRequest(**shared, scheduler="dpm++ 2m", steps=60))
        # Submitted together, they share the network's evaluations; each has the bits that it has alone.
        tickets = [engine.submit(intarsia.InpaintRequest(**shared, scheduler=name, steps=STEPS)) for name in SCHEDULERS]
        results = [ticket.result() for ticket in tickets]

    print(f"{'scheduler':34} {'evaluations':>11} {'noise':>22} {'difference':>10}")
    for result in results:
        sampler, output = result.plan.sampler, result.images[0]
        noise = intarsia.schedulers.info(sampler.scheduler).stochastic
        difference = rms(output, reference.images[0])
        print(f"{sampler.scheduler:34} {sampler.evaluations:11d} {noise:>22} {difference:10.2f}")
        output.save(folder / f"{sampler.scheduler}.png")


def rms(one: Image.Image, other: Image.Image) -> float:
    """Root mean square of the difference, in 8-bit levels."""
    return float(np.sqrt(np.mean((np.asarray(one, float) - np.asarray(other, float)) ** 2)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
