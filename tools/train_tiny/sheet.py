"""`python -m tools.train_tiny.sheet MODEL OUT`: a contact sheet of measured scenes, masked above, painted below."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tools.train_tiny.painters import Sampling, Task, diffusers_painter
from tools.train_tiny.scenes import MEASURING, draw_scene

CELL = 160
FIRST = 50_000  # scenes of the measuring range that are neither measured nor trained on


def cells(task: Task, painted: np.ndarray) -> Image.Image:
    """One example: its caption, the image with gray under the mask, and what was painted."""
    hidden = task.picture.copy()
    hidden[task.mask] = 128
    cell = Image.new("RGB", (CELL, 2 * CELL + 14), "white")
    ImageDraw.Draw(cell).text((2, 1), task.prompt or "(empty)", fill="black")
    for row, picture in enumerate((hidden, painted)):
        cell.paste(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.LANCZOS), (0, 14 + row * CELL))
    return cell


def main() -> None:
    """Paint the examples, a quarter of them with the empty prompt, and save the sheet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--first", type=int, default=FIRST)
    asked = parser.parse_args()
    painter = diffusers_painter(asked.model, Sampling())
    sheet = Image.new("RGB", (asked.columns * (CELL + 4), asked.rows * (2 * CELL + 18)), "white")
    for place in range(asked.rows * asked.columns):
        mixture = replace(MEASURING, empty=1.0 if place % 4 == 3 else 0.0)
        scene = draw_scene("measure", asked.first + place, asked.size, mixture)
        task = Task(scene.picture, scene.mask, scene.caption, asked.first + place)
        row, column = divmod(place, asked.columns)
        sheet.paste(cells(task, painter([task])[0]), (column * (CELL + 4), row * (2 * CELL + 18)))
    sheet.save(asked.out)


if __name__ == "__main__":
    main()
