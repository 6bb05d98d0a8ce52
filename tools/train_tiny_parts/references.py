"""Reference images for an IP adapter: one shape of a color, somewhere on a plain background."""

from __future__ import annotations

import math

import numpy as np

from tools.train_tiny.backgrounds import draw_background
from tools.train_tiny.palette import COLOURS, SHAPES, paste, silhouette

Rng = np.random.Generator
CLEAR = 75.0  # distance of a shape's color from nine tenths of the background, as in the scenes
ATTEMPTS = 20


def reference(rng: Rng, colour: str, shape: str, size: int) -> np.ndarray:
    """An image of a shape, uint8 [S, S, 3]; radius, place and angle are drawn, the background is one that shows it."""
    paint = np.asarray(COLOURS[colour], np.float32)
    for _ in range(ATTEMPTS):
        _, picture = draw_background(rng, size, 0.1)
        distance = np.sqrt(((picture[::4, ::4] - paint) ** 2).sum(-1))
        if float(np.quantile(distance, 0.1)) > CLEAR:
            break
    radius = size * rng.uniform(0.2, 0.45)
    form = silhouette(shape, radius, rng.uniform(-math.pi / 18, math.pi / 18))
    place = rng.uniform(radius, size - radius, 2)
    paste(picture, form, (float(place[0]), float(place[1])), np.clip(paint + rng.uniform(-10, 10, 3), 0, 255))
    return picture.round().clip(0, 255).astype(np.uint8)


def random_reference(rng: Rng, size: int) -> tuple[np.ndarray, int, int]:
    """A reference image of any color and shape, and the numbers of both."""
    colour, shape = int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES)))
    return reference(rng, list(COLOURS)[colour], SHAPES[shape], size), colour, shape
