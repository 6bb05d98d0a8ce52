"""`python -m tools.sheet FILE`: the README's contact sheet, from scenes drawn by code.

Each column is one scene: what stood there with the mask greyed, then images of the packaged model for
several prompts. Scenes come from the range that the model was not trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import intarsia
from tools.train_tiny.scenes import MEASURING, draw_scene

SCENES, SIZE, SHOWN = (3, 11, 17, 24, 31, 42), 512, 224
PROMPTS = ("", "a red circle", "a blue star", "a yellow ring")
SCHEDULERS = ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler")


def cell(picture: Image.Image, caption: str) -> Image.Image:
    """One image with its caption below."""
    made = Image.new("RGB", (SHOWN, SHOWN + 18), "white")
    made.paste(picture.convert("RGB").resize((SHOWN, SHOWN), Image.Resampling.LANCZOS))
    ImageDraw.Draw(made).text((4, SHOWN + 3), caption, fill="black")
    return made


def column(engine: intarsia.Engine, index: int) -> list[Image.Image]:
    """One scene: the masked input, then each prompt."""
    scene = draw_scene("measure", index, SIZE, MEASURING)
    masked = np.where(scene.mask[..., None], np.uint8(128), scene.background)
    cells = [cell(Image.fromarray(masked), "input, mask in grey")]
    for place, prompt in enumerate(PROMPTS):
        request = intarsia.InpaintRequest(
            prompt=prompt, init_image=scene.background, mask_image=scene.mask, strength=1.0, guidance_scale=4.0,
            steps=20, seed=index, scheduler=SCHEDULERS[place % len(SCHEDULERS)],
        )  # fmt: skip
        cells.append(cell(engine.run(request).images[0], prompt or "(empty prompt)"))
    return cells


def main(target: Path) -> None:
    """Draw the sheet and save it as a JPEG."""
    with intarsia.Engine() as engine:
        columns = [column(engine, index) for index in SCENES]
    width, height = columns[0][0].size
    sheet = Image.new("RGB", (width * len(columns), height * len(columns[0])), "white")
    for x, cells in enumerate(columns):
        for y, made in enumerate(cells):
            sheet.paste(made, (x * width, y * height))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, quality=88)
    print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
