"""Repaint a part of an image from Python: ``python examples/library.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import intarsia


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    image = Image.new("RGB", (160, 128), "navy")
    mask = Image.new("L", image.size)  # white is repainted
    ImageDraw.Draw(mask).ellipse((48, 32, 112, 96), fill=255)

    request = intarsia.InpaintRequest(
        prompt="a red circle",
        init_image=image,  # or a path, URL, data URI, bytes or numpy array
        mask_image=mask,
        scheduler="dpm++ 2m",
        steps=8,
        strength=1.0,
        seed=7,
    )
    print("plan:", intarsia.plan(request).sampler.evaluations, "evaluations")

    with intarsia.Engine() as engine:
        for event in engine.stream(request):
            if isinstance(event, intarsia.Progress):
                print(f"step {event.step} of {event.steps}")
            else:
                result = event

    result.images[0].save(folder / "result.png")
    print("seed:", result.meta["seed"], "seconds:", round(result.timings["total"], 2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
