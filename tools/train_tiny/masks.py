"""Masks drawn by code: boxes, discs, blobs and person-like silhouettes, and a place for a shape inside one."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

Rng = np.random.Generator
KINDS: tuple[str, ...] = ("box", "disc", "blob", "person", "parts")
WEIGHTS: tuple[float, ...] = (0.38, 0.22, 0.24, 0.10, 0.06)
PLAIN: tuple[str, ...] = ("box", "disc", "blob")


def _blob(rng: Rng, centre: tuple[float, float], rx: float, ry: float) -> list[tuple[float, float]]:
    """A closed wavy outline around `centre`."""
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    radius = np.ones_like(angles)
    for order in range(2, 6):
        radius += rng.uniform(0, 0.45 / order) * np.sin(order * angles + rng.uniform(0, 2 * math.pi))
    return [
        (centre[0] + rx * r * math.cos(a), centre[1] + ry * r * math.sin(a))
        for r, a in zip(radius, angles, strict=True)
    ]


def _person(rng: Rng, draw: ImageDraw.ImageDraw, centre: tuple[float, float], height: float) -> None:
    """Head, trunk and limbs, upright or lying: tall, narrow and irregular, as silhouettes of people and dogs."""
    lean, lying = rng.uniform(-0.12, 0.12) * height, rng.random() < 0.25
    width = height * rng.uniform(0.16, 0.32)

    def spot(x: float, y: float) -> tuple[float, float]:
        shift = lean * y
        return (
            (centre[0] + y * height, centre[1] + x + shift)
            if lying
            else (centre[0] + x + shift, centre[1] + y * height)
        )

    head, trunk = spot(0, -0.4), spot(0, -0.12)
    draw.polygon(_blob(rng, head, width * 0.45, width * 0.5), fill=255)
    rx, ry = (height * 0.27, width) if lying else (width, height * 0.27)
    draw.polygon(_blob(rng, trunk, rx, ry), fill=255)
    for side in (-1, 1):
        joint, end = spot(side * width * 0.5, 0.0), spot(side * width * rng.uniform(0.1, 1.1), 0.5)
        draw.line((*joint, *end), fill=255, width=max(2, int(width * rng.uniform(0.5, 0.95))))
        hand = spot(side * width * rng.uniform(0.9, 1.9), rng.uniform(-0.4, 0.2))
        draw.line((*spot(side * width * 0.5, -0.25), *hand), fill=255, width=max(2, int(width * rng.uniform(0.2, 0.5))))


def draw_mask(rng: Rng, size: int, kinds: tuple[str, ...] = KINDS) -> np.ndarray:
    """A mask, bool [size, size], true where the image is to be painted; covers about 3 to 50 % of it."""
    shares = np.asarray([WEIGHTS[KINDS.index(kind)] for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    canvas = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(canvas)
    reach = size * rng.uniform(0.2, 0.42)
    stretch = math.exp(rng.uniform(-0.35, 0.35))
    rx, ry = reach * stretch, reach / stretch
    x = rng.uniform(min(rx * 0.9, size / 2), max(size - rx * 0.9, size / 2))
    y = rng.uniform(min(ry * 0.9, size / 2), max(size - ry * 0.9, size / 2))
    if kind == "box":
        draw.rectangle((x - rx, y - ry, x + rx, y + ry), fill=255)
    elif kind == "disc":
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=255)
    elif kind == "blob":
        draw.polygon(_blob(rng, (x, y), rx, ry), fill=255)
    elif kind == "person":
        _person(rng, draw, (x, rng.uniform(0.4, 0.6) * size), size * rng.uniform(0.6, 1.0))
    else:
        for _ in range(int(rng.integers(2, 5))):
            part = (x + rng.uniform(-1, 1) * rx, y + rng.uniform(-1, 1) * ry)
            draw.polygon(_blob(rng, part, rx * rng.uniform(0.3, 0.8), ry * rng.uniform(0.3, 0.8)), fill=255)
    return np.asarray(canvas) > 127


def surroundings(rng: Rng, coverage: np.ndarray) -> np.ndarray:
    """The shape itself and a margin around it, bool [S, S]."""
    size = coverage.shape[0]
    image = Image.fromarray((coverage * 255).astype(np.uint8))
    blurred = image.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.02, 0.06)))
    return np.asarray(blurred) > rng.uniform(8, 40)


def room(mask: np.ndarray) -> tuple[tuple[float, float], float]:
    """The place inside the mask with the most room: its (x, y) and the distance to the mask's edge, in pixels.

    Where many places have as much, as along the middle of a long box, the one nearest to their center. The edge of
    the image counts as an edge of the mask.
    """
    step = max(mask.shape[0] // 64, 1)
    coarse = np.pad(mask[step // 2 :: step, step // 2 :: step], 1)
    distance = ndimage.distance_transform_edt(coarse)[1:-1, 1:-1]
    best = float(distance.max())
    if best <= 0:
        return (0.0, 0.0), 0.0
    rows, columns = np.nonzero(distance >= best * 0.95)
    pick = int(((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin())
    place = ((columns[pick] + 0.5) * step, (rows[pick] + 0.5) * step)
    return place, float(distance[rows[pick], columns[pick]]) * step
