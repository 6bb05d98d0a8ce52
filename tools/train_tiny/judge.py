"""The judge: which color and which shape stand inside the mask of a painted image.

It knows the true background, the mask, the eight colors and the ideal silhouettes, never what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

from tools.train_tiny.palette import COLOURS, SHAPES, silhouette

WORKING_SIZE = 256  # images are judged at this side, in pixels
GRID = 48  # silhouettes are compared at this side
SMALLEST = 0.004  # of the image's area: what is less is no object
ROTATIONS = 12  # over the symmetry range of a shape
SYMMETRY = {"circle": 1.0, "ring": 1.0, "square": np.pi / 2, "triangle": 2 * np.pi / 3, "star": 2 * np.pi / 5}
HOLES = (0.35, 0.45, 0.55, 0.65, 0.75)


@dataclass(frozen=True)
class Verdict:
    """What was found inside the mask; None where nothing stands out from the background."""

    colour: str | None
    shape: str | None
    overlap: float  # intersection over union with the best ideal silhouette
    area: float  # share of the image


def _working(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((WORKING_SIZE, WORKING_SIZE), Image.Resampling.BOX), np.float32)


def _distance(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.sqrt(((pixels - colour) ** 2).sum(-1))


def object_inside(picture: np.ndarray, background: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest connected piece inside the mask that is nearer to a palette color than to the background.

    Images are uint8 [S, S, 3], the mask bool [S, S]. Returns the piece, bool [256, 256], and the image at
    that size, float32.
    """
    pixels, behind = _working(picture), _working(background)
    inside = _working(np.repeat((mask * 255).astype(np.uint8)[..., None], 3, 2))[..., 0] > 127
    palette = np.asarray(list(COLOURS.values()), np.float32)
    nearest = np.min([_distance(pixels, colour) for colour in palette], axis=0)
    changed = _distance(pixels, behind)
    candidate = inside & (changed > 45) & (nearest < changed)
    candidate = ndimage.binary_opening(candidate, iterations=2)
    labels, count = ndimage.label(candidate)
    if not count:
        return np.zeros_like(candidate), pixels
    sizes = np.bincount(labels.ravel())[1:]
    return labels == 1 + int(sizes.argmax()), pixels


def normalised(piece: np.ndarray) -> np.ndarray:
    """A silhouette moved to its centroid and scaled to a fixed area of its filled form; float32 [48, 48]."""
    filled = ndimage.binary_fill_holes(piece)
    rows, columns = np.nonzero(filled)
    scale = np.sqrt(len(rows)) / (GRID * 0.52)  # source pixels for each cell
    offset = (np.arange(GRID) - (GRID - 1) / 2) * scale
    grid = np.meshgrid(rows.mean() + offset, columns.mean() + offset, indexing="ij")
    return ndimage.map_coordinates(piece.astype(np.float32), grid, order=1, mode="constant")


@lru_cache(maxsize=1)
def ideals() -> tuple[np.ndarray, tuple[str, ...]]:
    """Normalised ideal silhouettes, float32 [T, 48·48], and the shape that each one is."""
    forms, names = [], []
    for shape in SHAPES:
        turns = 1 if SYMMETRY[shape] == 1.0 else ROTATIONS
        for hole in HOLES if shape == "ring" else (0.0,):
            for turn in range(turns):
                form = silhouette(shape, 80.0, turn * SYMMETRY[shape] / turns, hole) > 0.5
                forms.append(normalised(np.pad(form, 40)).ravel())
                names.append(shape)
    return np.stack(forms), tuple(names)


def judge(picture: np.ndarray, background: np.ndarray, mask: np.ndarray) -> Verdict:
    """Color: the palette entry nearest to the piece's median. Shape: the ideal silhouette that overlaps most."""
    piece, pixels = object_inside(picture, background, mask)
    area = float(piece.mean())
    if area < SMALLEST:
        return Verdict(None, None, 0.0, area)
    core = ndimage.binary_erosion(piece, iterations=2)
    median = np.median(pixels[core if core.any() else piece], axis=0)
    colour = min(COLOURS, key=lambda name: float(_distance(median, np.asarray(COLOURS[name], np.float32))))
    own = normalised(piece).ravel()
    forms, names = ideals()
    overlap = np.minimum(forms, own).sum(1) / np.maximum(forms, own).sum(1)
    best = int(overlap.argmax())
    return Verdict(colour, names[best], float(overlap[best]), area)
