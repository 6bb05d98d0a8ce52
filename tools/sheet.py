"""`python -m tools.sheet FILE [PARTS]`: the README's contact sheets, from scenes drawn by code.

Each column is one scene: what stood there with the mask grayed, then images of the packaged model, a row for each
prompt; in the second file, PARTS, a row for each packaged LoRA and the IP adapter below the same prompt without.
Scenes come from the range that the model was not trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import intarsia
from tools.train_tiny.scenes import MEASURING, Scene, draw_scene
from tools.train_tiny_parts.references import reference

SCENES, SIZE, SHOWN = (3, 11, 17, 24, 31, 42), 512, 224
LOOK = {"id": "tiny-look", "image": reference(np.random.default_rng(4), "purple", "star", 224)}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a sheet: a prompt, what stands below each image, and the request's other fields."""

    prompt: str
    caption: str = ""
    scheduler: str = "DPMSolverMultistepScheduler"
    options: Mapping[str, Any] = field(default_factory=dict)


PROMPTS = (
    Row(prompt="", caption="(empty prompt)"),
    Row(prompt="a red circle", scheduler="EulerDiscreteScheduler"),
    Row(prompt="a blue star", scheduler="UniPCMultistepScheduler"),
    Row(prompt="a yellow ring"),
)
PARTS = (
    Row(prompt="a red circle"),
    Row(prompt="a red circle", caption="a red circle, LoRA stripes", options={"loras": ["stripes"]}),
    Row(prompt="a red circle", caption="a red circle, LoRA pastel", options={"loras": ["pastel"]}),
    Row(prompt="", caption="IP adapter, shown a purple star", options={"ip_adapter": LOOK}),
)


def cell(picture: Image.Image, caption: str) -> Image.Image:
    """One image with its caption below."""
    made = Image.new("RGB", (SHOWN, SHOWN + 18), "white")
    made.paste(picture.convert("RGB").resize((SHOWN, SHOWN), Image.Resampling.LANCZOS))
    ImageDraw.Draw(made).text((4, SHOWN + 3), caption, fill="black")
    return made


def painted(engine: intarsia.Engine, scene: Scene, row: Row, seed: int) -> Image.Image:
    """One scene's image for one row."""
    request = intarsia.InpaintRequest(
        prompt=row.prompt, init_image=scene.background, mask_image=scene.mask, strength=1.0, guidance_scale=4.0,
        steps=20, seed=seed, scheduler=row.scheduler, **row.options,
    )  # fmt: skip
    return engine.run(request).images[0]


def column(engine: intarsia.Engine, index: int, rows: Sequence[Row]) -> list[Image.Image]:
    """One scene: the masked input, then each row."""
    scene = draw_scene("measure", index, SIZE, MEASURING)
    masked = np.where(scene.mask[..., None], np.uint8(128), scene.background)
    cells = [cell(Image.fromarray(masked), "input, mask in gray")]
    return cells + [cell(painted(engine, scene, row, index), row.caption or row.prompt) for row in rows]


def write(engine: intarsia.Engine, rows: Sequence[Row], target: Path) -> None:
    """Draw one sheet and save it as a JPEG."""
    columns = [column(engine, index, rows) for index in SCENES]
    width, height = columns[0][0].size
    sheet = Image.new("RGB", (width * len(columns), height * len(columns[0])), "white")
    for x, cells in enumerate(columns):
        for y, made in enumerate(cells):
            sheet.paste(made, (x * width, y * height))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, quality=88)
    print(target)


def main(target: Path, parts: Path | None = None) -> None:
    """Draw the sheet of prompts, and that of the parts where its file is named."""
    with intarsia.Engine() as engine:
        write(engine, PROMPTS, target)
    if parts is not None:
        with intarsia.Engine("torch") as engine:
            write(engine, PARTS, parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("parts", type=Path, nargs="?")
    arguments = parser.parse_args()
    main(arguments.file, arguments.parts)
