"""Scenes: a background, colored shapes, a mask and a caption, all a pure function of (split, index, size)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tools.train_tiny import captions
from tools.train_tiny.backgrounds import draw_background
from tools.train_tiny.masks import KINDS, PLAIN, draw_mask, room, surroundings
from tools.train_tiny.palette import COLOURS, SHAPES, paste, silhouette

Rng = np.random.Generator
SPLITS: dict[str, int] = {"train": 1, "autoencoder": 2, "measure": 3}  # seed ranges that never meet
SMALLEST_TARGET = 0.17  # radius over image side: 44 pixels at 256²


@dataclass(frozen=True, eq=False)
class Scene:
    """One drawn scene; images are uint8 [S, S, 3], the mask is bool [S, S] (true: to be painted)."""

    picture: np.ndarray  # what stands there in truth
    background: np.ndarray  # the same without the shape that the caption names
    mask: np.ndarray
    caption: str  # "" or unrelated words: continue the background
    colour: str | None
    shape: str | None
    kind: str  # of the background
    coverage: np.ndarray | None = None  # of the shape that the caption names, float32 [S, S] in 0…1
    paint: np.ndarray | None = None  # its color as drawn, float32 [3] in 0…255


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of scenes that are drawn."""

    empty: float  # no shape inside the mask
    photographic: float  # photograph-like backgrounds
    plain_captions: bool = False  # only "a red circle", only "" (for measuring)
    overlaps: float = 0.2  # scenes where other shapes may reach into the mask
    masks: tuple[str, ...] = KINDS  # besides a shape's own surroundings
    others: int = 4  # shapes outside the mask, at most


TRAINING = Mixture(empty=0.33, photographic=0.25)
MEASURING = Mixture(empty=0.0, photographic=0.0, plain_captions=True, overlaps=0.0, masks=PLAIN)


def scene_rng(split: str, index: int, size: int) -> Rng:
    """The generator that draws scene `index` of a split at that size."""
    return np.random.default_rng([SPLITS[split], size, index])


def _jittered(rng: Rng, colour: str) -> np.ndarray:
    return np.clip(np.asarray(COLOURS[colour], np.float32) + rng.uniform(-10, 10, 3), 0, 255).astype(np.float32)


def _distractors(rng: Rng, picture: np.ndarray, mask: np.ndarray, mixture: Mixture, overlaps: bool) -> None:
    """Draw some shapes outside the mask; with `overlaps`, up to 70 % of one may lie inside."""
    size = picture.shape[0]
    allowed = 0.7 if overlaps else 0.0
    for _ in range(int(rng.integers(0, mixture.others + 1))):
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        radius = size * rng.uniform(0.05, 0.17)
        form = silhouette(shape, radius, rng.uniform(-0.5, 0.5))
        colour = _jittered(rng, list(COLOURS)[int(rng.integers(len(COLOURS)))])
        for _ in range(6):
            x, y = rng.uniform(0, size, 2)
            reach = int(radius) + 2
            window = mask[max(int(y) - reach, 0) : int(y) + reach, max(int(x) - reach, 0) : int(x) + reach]
            if window.size and float(window.mean()) <= allowed:
                paste(picture, form, (x, y), colour)
                break


def _visible_colours(background: np.ndarray, coverage: np.ndarray) -> list[str]:
    """Colors that differ clearly from at least nine tenths of what lies under and around the shape."""
    rows, columns = np.nonzero(coverage > 0)
    margin = background.shape[0] // 16
    window = background[
        max(rows.min() - margin, 0) : rows.max() + margin : 4,
        max(columns.min() - margin, 0) : columns.max() + margin : 4,
    ].reshape(-1, 3)
    distance = {
        name: float(np.quantile(np.sqrt(((window - np.asarray(rgb, np.float32)) ** 2).sum(1)), 0.1))
        for name, rgb in COLOURS.items()
    }
    clear = [name for name, far in distance.items() if far > 75]
    return clear or [max(distance, key=lambda name: distance[name])]


def _target_place(rng: Rng, size: int, kinds: tuple[str, ...]) -> tuple[np.ndarray, tuple[float, float], float]:
    """A mask, and the center and radius of a shape that fills the room in it.

    The mask alone decides where the shape stands and how large it is. Where both are left to chance, what the network
    learns to expect at high noise is a blur of all places, which guidance (it acts on the difference to the plain
    background) then makes a blot; a small network does not find its way from there to one clear shape.
    """
    for attempt in range(8):
        mask = draw_mask(rng, size, kinds if attempt < 6 else ("disc",))
        place, space = room(mask)
        if space >= size * SMALLEST_TARGET:
            return mask, place, space * rng.uniform(0.92, 1.0)
    mask = np.zeros((size, size), bool)
    mask[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = True
    return mask, (size / 2, size / 2), size * 0.24


def _coverage_mask(
    rng: Rng, size: int, shape: str, radius: float, angle: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """The mask that is a shape's own surroundings, and where the shape stands."""
    place = tuple(rng.uniform(radius, size - radius, 2)) if 2 * radius < size else (size / 2, size / 2)
    scratch = np.zeros((size, size, 3), np.float32)
    return surroundings(rng, paste(scratch, silhouette(shape, radius, angle), place, np.zeros(3))), place


def draw_scene(split: str, index: int, size: int, mixture: Mixture = TRAINING) -> Scene:
    """Scene `index` of a split, at size² pixels; the same arguments give the same bytes."""
    rng = scene_rng(split, index, size)
    kind, picture = draw_background(rng, size, mixture.photographic)
    overlaps = rng.random() < mixture.overlaps
    if rng.random() < mixture.empty:
        mask = draw_mask(rng, size, mixture.masks)
        _distractors(rng, picture, mask, mixture, overlaps)
        truth = picture.round().astype(np.uint8)
        caption = "" if mixture.plain_captions else captions.unrelated(rng)
        return Scene(truth, truth, mask, caption, None, None, kind)
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    angle = rng.uniform(-math.pi / 36, math.pi / 36)
    mask, place, radius = _target_place(rng, size, mixture.masks)
    if rng.random() < 0.12:
        mask, place = _coverage_mask(rng, size, shape, radius, angle)
    _distractors(rng, picture, mask, mixture, overlaps)
    background = picture.copy()
    form = silhouette(shape, radius, angle)
    coverage = paste(picture.copy(), form, place, np.zeros(3))
    choices = _visible_colours(background, coverage)
    colour = choices[int(rng.integers(len(choices)))]
    paint = _jittered(rng, colour)
    paste(picture, form, place, paint)
    caption = captions.plain(colour, shape) if mixture.plain_captions else captions.caption(rng, colour, shape)
    truth, behind = picture.round().astype(np.uint8), background.round().astype(np.uint8)
    return Scene(truth, behind, mask, caption, colour, shape, kind, coverage, paint)
