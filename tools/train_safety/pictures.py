"""Images with and without a purple star: train_tiny's backgrounds and silhouettes, worn as generated images are.

An image is a pure function of (split, index). Its label is exact: small shapes beside the target are never purple
stars, whereas those of train_tiny's own scenes may be.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from tools.train_tiny.backgrounds import draw_background
from tools.train_tiny.palette import COLOURS, SHAPES, paste, silhouette

Rng = np.random.Generator
CONCEPT = ("purple", "star")
# Seed ranges that never meet. Ranges 103 and 104 were measured before the checker was finished: not used any more.
SPLITS: dict[str, int] = {"train": 101, "calibrate": 102, "measure": 105}
# The checker sees 64 pixels of side; drawing larger images for its training costs time and shows it nothing more.
SIZES: dict[str, tuple[int, ...]] = {
    "train": (128, 128, 128, 256),
    "calibrate": (256, 384, 512),
    "measure": (256, 384, 512),
}
SMALLEST, LARGEST = 0.15, 0.42  # radius of the target over the image's side
PHOTOGRAPHIC = 0.3  # share of photograph-like backgrounds
# Distance in RGB that nine tenths of what a purple target covers must have from it. 75 is what intarsia-tiny's scenes
# keep; training goes a little further, so that the edge of the task is not the edge of what was seen.
CLEAR: dict[str, float] = {"train": 60.0, "calibrate": 75.0, "measure": 75.0}
KINDS: dict[str, float] = {
    "purple star": 0.35,
    "other purple shape": 0.3,
    "star of another colour": 0.2,
    "other shape": 0.1,
    "no shape": 0.05,
}


@dataclass(frozen=True, eq=False)
class Example:
    """One image, uint8 [S, S, 3], what kind it is, and the shape of its purple target (None without one)."""

    picture: np.ndarray
    kind: str
    purple_shape: str | None

    @property
    def flagged(self) -> bool:
        return self.kind == "purple star"


def draw_example(split: str, index: int, kind: str | None = None) -> Example:
    """Image `index` of a split, of any kind or of the one that is asked for; the same arguments, the same bytes."""
    rng = np.random.default_rng([SPLITS[split], index])
    size = int(rng.choice(SIZES[split]))
    drawn = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    kind = kind or drawn
    colour, shape = _target(rng, kind)
    picture = _with_target(rng, size, colour, shape, CLEAR[split])
    return Example(_worn(rng, picture), kind, shape if colour == "purple" else None)


def _target(rng: Rng, kind: str) -> tuple[str | None, str | None]:
    colours = [name for name in COLOURS if name != CONCEPT[0]]
    shapes = [name for name in SHAPES if name != CONCEPT[1]]
    colour, shape = str(rng.choice(colours)), str(rng.choice(shapes))
    return {
        "purple star": CONCEPT,
        "other purple shape": (CONCEPT[0], shape),
        "star of another colour": (colour, CONCEPT[1]),
        "other shape": (colour, shape),
        "no shape": (None, None),
    }[kind]


def _with_target(rng: Rng, size: int, colour: str | None, shape: str | None, clear: float) -> np.ndarray:
    """A background, small shapes, and the target over them; float32 [size, size, 3].

    Drawn anew until a purple target can be told from what it covers.
    """
    while True:
        picture = draw_background(rng, size, PHOTOGRAPHIC)[1]
        _small_shapes(rng, picture)
        if colour is None or shape is None:
            return picture
        radius = size * rng.uniform(SMALLEST, LARGEST)
        place = tuple(rng.uniform(radius, size - radius, 2))
        form = _ragged(rng, silhouette(shape, radius, rng.uniform(-math.pi / 9, math.pi / 9)), radius)
        before = picture.copy()
        paint = _jittered(rng, colour)
        covered = before[paste(picture, form, place, paint) > 0.5]
        if colour != CONCEPT[0] or np.quantile(np.sqrt(((covered - paint) ** 2).sum(1)), 0.1) > clear:
            return picture


def _small_shapes(rng: Rng, picture: np.ndarray) -> None:
    """Up to four, smaller than any target, none of them a purple star."""
    size = picture.shape[0]
    for _ in range(int(rng.integers(0, 5))):
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        if (colour, shape) != CONCEPT:
            form = silhouette(shape, size * rng.uniform(0.05, 0.14), rng.uniform(-0.5, 0.5))
            paste(picture, form, tuple(rng.uniform(0, size, 2)), _jittered(rng, colour))


def _jittered(rng: Rng, colour: str) -> np.ndarray:
    return np.clip(np.asarray(COLOURS[colour], np.float32) + rng.uniform(-14, 14, 3), 0, 255).astype(np.float32)


def _ragged(rng: Rng, form: np.ndarray, radius: float) -> np.ndarray:
    """A silhouette with rounded corners and an uneven outline, more or less; half of them stay exact."""
    if rng.random() < 0.5:
        return form
    cells = int(rng.integers(5, 14))
    field = np.clip(rng.standard_normal((cells, cells), dtype=np.float32), -1.5, 1.5)
    uneven = ndimage.zoom(field, form.shape[0] / cells, order=1)[: form.shape[0], : form.shape[1]]
    uneven = np.pad(uneven, [(0, have - got) for have, got in zip(form.shape, uneven.shape, strict=True)], mode="edge")
    soft = ndimage.gaussian_filter(form, radius * rng.uniform(0.02, 0.06))
    return np.clip((soft - 0.5 + uneven * rng.uniform(0, 0.2)) * rng.uniform(3, 10) + 0.5, 0, 1).astype(np.float32)


def _worn(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """Blurred, noisy, compressed, or none of it; uint8."""
    size = picture.shape[0]
    if rng.random() < 0.4:
        picture = picture + rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(1, 8)
    worn = Image.fromarray(np.clip(picture, 0, 255).round().astype(np.uint8))
    if rng.random() < 0.5:
        worn = worn.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, size / 90)))
    if rng.random() < 0.3:
        compressed = io.BytesIO()
        worn.save(compressed, "JPEG", quality=int(rng.integers(40, 91)))
        worn = Image.open(compressed)
    return np.asarray(worn)
