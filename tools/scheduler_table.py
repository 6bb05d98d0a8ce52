"""`python -m tools.scheduler_table`: every scheduler on the packaged model, counted and shown.

Paints 40 scenes that the model was not trained on, one for each color and shape that it knows, with every
scheduler, with and without Karras sigmas, and lets the judge of `tools.train_tiny` say which color and shape
stand there. Writes docs/schedulers-measured.md and docs/images/schedulers/. Ends with 1 if a scheduler of which it is
expected paints the asked color less often than the bar.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from PIL import Image

import intarsia
from intarsia import schedulers
from tools.train_tiny.judge import judge
from tools.train_tiny.palette import COLOURS, SHAPES
from tools.train_tiny.scenes import MEASURING, Scene, draw_scene

REPOSITORY = Path(__file__).resolve().parent.parent
SIZE, GUIDANCE, BAR = 256, 4.0, 0.9
SHOWN, SIDE = 8, 112
STEPS = {
    "DDPMScheduler": 50,
    "ScoreSdeVeScheduler": 50,
    "KarrasVeScheduler": 25,
    "HeunDiscreteScheduler": 15,
    "KDPM2DiscreteScheduler": 15,
    "KDPM2AncestralDiscreteScheduler": 25,
    "IPNDMScheduler": 25,
    "LCMScheduler": 8,
}
USUAL_STEPS = 20
REPORTED_ONLY = ("LCMScheduler", "ScoreSdeVeScheduler")
"""LCM needs a model distilled for it; the predictor-corrector is a sampler for networks of another kind."""

PAGE = """# Every scheduler on the packaged model

Written by `python -m tools.scheduler_table`. {scenes} scenes that the model was not trained on, one for each of its
colors and shapes, at {size}², strength 1, guidance {guidance:g}; the same scenes and seeds in every row. *Color* and
*shape*: share of images in which the judge of `tools/train_tiny` finds the asked one. The bar for the color is
{bar:.0%}, except for {reported} (reported only). Images: above without, below with Karras sigmas.

| scheduler | steps | evaluations | color | shape | color, Karras | shape, Karras | what Karras does |
|---|---:|---:|---:|---:|---:|---:|---|
{rows}

**{verdict}**

{pictures}
"""


@dataclass(frozen=True, eq=False)
class Row:
    """One scheduler, with Karras sigmas or without."""

    colour: float
    shape: float
    evaluations: int
    pictures: list[Image.Image]


def scenes() -> list[Scene]:
    """One scene for each pair of a color and a shape, the first of the measuring range that has it."""
    wanted = {(colour, shape) for colour in COLOURS for shape in SHAPES}
    found: list[Scene] = []
    for index in count():
        scene = draw_scene("measure", index, SIZE, MEASURING)
        if (scene.colour, scene.shape) in wanted:
            wanted.discard((str(scene.colour), str(scene.shape)))
            found.append(scene)
        if not wanted:
            break
    return found


def paint(engine: intarsia.Engine, drawn: list[Scene], name: str, karras: bool) -> Iterator[intarsia.Result]:
    """All scenes with one scheduler; they share batches where the device has room for it."""
    steps = STEPS.get(name, USUAL_STEPS)
    tickets = []
    for seed, scene in enumerate(drawn):
        request = intarsia.InpaintRequest(
            prompt=scene.caption, init_image=scene.background, mask_image=scene.mask, strength=1.0, seed=seed,
            guidance_scale=GUIDANCE, steps=steps, scheduler=name, karras_sigmas=karras, width=SIZE, height=SIZE,
        )  # fmt: skip
        tickets.append(engine.submit(request))
    for ticket in tickets:
        yield ticket.result()


def measure(engine: intarsia.Engine, drawn: list[Scene], name: str, karras: bool) -> Row:
    """Paint and judge."""
    results = list(paint(engine, drawn, name, karras))
    verdicts = [
        judge(np.asarray(result.images[0]), scene.background, scene.mask)
        for result, scene in zip(results, drawn, strict=True)
    ]
    pairs = list(zip(verdicts, drawn, strict=True))
    return Row(
        colour=float(np.mean([found.colour == asked.colour for found, asked in pairs])),
        shape=float(np.mean([found.shape == asked.shape for found, asked in pairs])),
        evaluations=results[0].plan.sampler.evaluations,
        pictures=[result.images[0] for result in results[:: len(results) // SHOWN][:SHOWN]],
    )


def changes(name: str) -> bool:
    """Whether Karras sigmas give the scheduler another table."""
    steps = STEPS.get(name, USUAL_STEPS)
    plain, karras = (schedulers.table(name, steps, karras=flag) for flag in (False, True))
    return not (np.array_equal(plain.matrix, karras.matrix) and np.array_equal(plain.timesteps, karras.timesteps))


def sheet(plain: Row, karras: Row) -> Image.Image:
    """Two rows of images."""
    made = Image.new("RGB", (SIDE * SHOWN, SIDE * 2), "white")
    for y, row in enumerate((plain, karras)):
        for x, picture in enumerate(row.pictures):
            made.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x * SIDE, y * SIDE))
    return made


def line(name: str, plain: Row, karras: Row) -> str:
    """One row of the table."""
    cells = (
        name, STEPS.get(name, USUAL_STEPS), plain.evaluations, f"{plain.colour:.1%}", f"{plain.shape:.1%}",
        f"{karras.colour:.1%}", f"{karras.shape:.1%}", schedulers.info(name).karras,
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    """Measure, write the page and its images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs")
    asked = parser.parse_args()
    pictures = asked.out / "images" / "schedulers"
    pictures.mkdir(parents=True, exist_ok=True)
    drawn, lines, below = scenes(), [], []
    with intarsia.Engine() as engine:
        for name in schedulers.NAMES:
            plain = measure(engine, drawn, name, karras=False)
            # Where Karras sigmas change nothing, the table is the same one, and so is every image.
            karras = measure(engine, drawn, name, karras=True) if changes(name) else plain
            lines.append(line(name, plain, karras))
            print(lines[-1], flush=True)
            sheet(plain, karras).save(pictures / f"{name}.jpg", quality=85)
            if name not in REPORTED_ONLY and min(plain.colour, karras.colour) < BAR:
                below.append(name)
    verdict = f"Below the bar: {', '.join(below)}." if below else "All that the bar is set for reach it."
    page = PAGE.format(
        scenes=len(drawn), size=SIZE, guidance=GUIDANCE, bar=BAR, reported=" and ".join(REPORTED_ONLY),
        rows="\n".join(lines), verdict=verdict,
        pictures="\n\n".join(f"## {name}\n\n![{name}](images/schedulers/{name}.jpg)" for name in schedulers.NAMES),
    )  # fmt: skip
    (asked.out / "schedulers-measured.md").write_text(page, encoding="utf-8")
    print(verdict, file=sys.stderr)
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
