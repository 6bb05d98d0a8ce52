"""The eight colors and five shapes of the captions, and the silhouettes that are drawn from them."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 215, 40),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "purple": (135, 50, 175),
    "orange": (245, 135, 30),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "ring", "star")

OVERSAMPLING = 3
STAR_WAIST = 0.46  # inner radius over outer radius of the five-pointed star
RING_HOLE = 0.55  # hole radius over outer radius of the ring


def corners(shape: str, radius: float, angle: float) -> list[tuple[float, float]]:
    """Corners of a polygonal shape around the origin; `radius` is that of the circle through its tips."""
    if shape == "square":
        points = [(radius, math.pi / 4 + k * math.pi / 2) for k in range(4)]
    elif shape == "triangle":
        points = [(radius, -math.pi / 2 + k * 2 * math.pi / 3) for k in range(3)]
    elif shape == "star":
        points = [(radius if k % 2 == 0 else radius * STAR_WAIST, -math.pi / 2 + k * math.pi / 5) for k in range(10)]
    else:
        raise ValueError(f"shape: {shape!r} has no corners (square, triangle, star)")
    return [(r * math.cos(a + angle), r * math.sin(a + angle)) for r, a in points]


def silhouette(shape: str, radius: float, angle: float = 0.0, hole: float = RING_HOLE) -> np.ndarray:
    """Anti-aliased coverage of a shape, float32 [n, n] in 0…1, with n = 2·ceil(radius) + 2, centred.

    `radius` is in pixels, `angle` in radians, `hole` the ring's inner over outer radius.
    """
    half = math.ceil(radius) + 1
    side = 2 * half * OVERSAMPLING
    centre = side / 2
    reach = radius * OVERSAMPLING
    canvas = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(canvas)
    if shape in ("circle", "ring"):
        draw.ellipse((centre - reach, centre - reach, centre + reach, centre + reach), fill=255)
        if shape == "ring":
            inner = reach * hole
            draw.ellipse((centre - inner, centre - inner, centre + inner, centre + inner), fill=0)
    else:
        draw.polygon([(centre + x, centre + y) for x, y in corners(shape, reach, angle)], fill=255)
    return np.asarray(canvas.reduce(OVERSAMPLING), dtype=np.float32) / 255.0


def paste(picture: np.ndarray, coverage: np.ndarray, centre: tuple[float, float], colour: np.ndarray) -> np.ndarray:
    """Blend `colour` into `picture` (float32 [S, S, 3], 0…255, changed in place) where `coverage` says.

    `centre` is (x, y) in pixels. Returns the coverage on the whole canvas, float32 [S, S].
    """
    size = picture.shape[0]
    half = coverage.shape[0] // 2
    left, top = round(centre[0]) - half, round(centre[1]) - half
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + 2 * half, size), min(top + 2 * half, size)
    whole = np.zeros((size, size), dtype=np.float32)
    if x1 <= x0 or y1 <= y0:
        return whole
    part = coverage[y0 - top : y1 - top, x0 - left : x1 - left]
    whole[y0:y1, x0:x1] = part
    region = picture[y0:y1, x0:x1]
    region += part[..., None] * (colour.astype(np.float32) - region)
    return whole
