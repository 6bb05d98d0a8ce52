"""Effects that an adapter teaches: other ways to fill a shape, as colors that vary from its top to its bottom."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tools.train_tiny.palette import COLOURS
from tools.train_tiny.scenes import Scene

WHITE, BLACK = np.full(3, 255.0, np.float32), np.full(3, 20.0, np.float32)
LIGHT = 190.0  # a color whose mean of red, green and green, blue is above this is striped black, not white
BANDS = 5  # the first, third and fifth have the shape's own color

Effect = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Heights [S] (0 is the shape's top, 1 its bottom) and a color [3] in 0…255 to the colors of the rows, [S, 3]."""


def stripes(heights: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Five horizontal bands: the shape's color, and white between (black in white and yellow shapes)."""
    luminance = float(colour @ np.asarray([0.3, 0.59, 0.11], np.float32))
    other = BLACK if luminance > LIGHT else WHITE
    odd = np.floor(heights * BANDS).astype(int) % 2 == 1
    return np.where(odd[:, None], other, colour).astype(np.float32)


def pastel(heights: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The color mixed with white, 45 parts to 55."""
    mixed = colour + np.float32(0.55) * (WHITE - colour)
    return np.broadcast_to(mixed, (len(heights), 3)).astype(np.float32)


def shade(heights: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Light from above: 40 % white at the top, falling to 60 % black at the bottom."""
    weight = (0.4 - heights).clip(-0.6, 0.4)[:, None].astype(np.float32)
    lit: np.ndarray = np.where(weight > 0, colour + weight * (WHITE - colour), colour - weight * (BLACK - colour))
    return lit


def sun(heights: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The palette's yellow, whatever the color was."""
    return np.broadcast_to(np.asarray(COLOURS["yellow"], np.float32), (len(heights), 3))


EFFECTS: Mapping[str, Effect] = {"stripes": stripes, "pastel": pastel, "shade": shade, "sun": sun}


def rows_of(coverage: np.ndarray) -> np.ndarray:
    """Where each row of the image lies in a shape, float32 [S]: 0 at its top, 1 at its bottom, beyond outside."""
    rows = np.nonzero((coverage > 0.5).any(1))[0]
    first, last = int(rows[0]), int(rows[-1]) + 1
    heights: np.ndarray = (np.arange(len(coverage), dtype=np.float32) + 0.5 - first) / (last - first)
    return heights


def drawn(scene: Scene, effect: Effect) -> np.ndarray:
    """The scene's image with its shape filled by the effect, uint8 [S, S, 3]; unchanged where no shape is named."""
    if scene.coverage is None or scene.paint is None:
        return scene.picture
    colours = effect(rows_of(scene.coverage), scene.paint)[:, None]
    behind = scene.background.astype(np.float32)
    picture = behind + scene.coverage[..., None] * (colours - behind)
    return picture.round().clip(0, 255).astype(np.uint8)


def share(painted: np.ndarray, scene: Scene, effect: Effect) -> float:
    """How much of the effect is in an image: 0 as in the plain drawing, 1 as in the drawing with the effect.

    The image's difference to the plain drawing is projected on that of the drawing with the effect, inside the shape.
    """
    if scene.coverage is None:
        raise ValueError("scene: names no shape, so that there is nothing to measure an effect on")
    inside = scene.coverage > 0.99
    plain = scene.picture[inside].astype(np.float64)
    asked = drawn(scene, effect)[inside] - plain
    return float(((painted[inside] - plain) * asked).sum() / (asked**2).sum())
