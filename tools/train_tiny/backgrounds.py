"""Backgrounds drawn by code: gradients, soft textures, stripes; and, for training only, photograph-like ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Rng = np.random.Generator


def random_colour(rng: Rng) -> np.ndarray:
    """A color, float32 [3] in 0…255; half of them are pulled toward gray, as in photographs."""
    colour = rng.uniform(10, 245, 3).astype(np.float32)
    if rng.random() < 0.5:
        colour = colour.mean() + (colour - colour.mean()) * np.float32(rng.uniform(0.1, 0.6))
    return colour


def _ramp(rng: Rng, size: int) -> np.ndarray:
    """A number 0…1 for every pixel that grows along a random direction, or away from a random point."""
    axis = np.arange(size, dtype=np.float32) / np.float32(size)
    x, y = axis[None, :], axis[:, None]
    if rng.random() < 0.3:
        cx, cy = rng.uniform(-0.2, 1.2, 2).astype(np.float32)
        ramp = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
    else:
        angle = rng.uniform(0, 2 * math.pi)
        ramp = x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))
    low, high = float(ramp.min()), float(ramp.max())
    return (ramp - np.float32(low)) / np.float32(max(high - low, 1e-3))


def _between(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return first + weight[..., None] * (second - first)


def gradient(rng: Rng, size: int) -> np.ndarray:
    """Two colors that run into each other."""
    return _between(random_colour(rng), random_colour(rng), _ramp(rng, size))


def _grid(rng: Rng, cells: int, size: int, spread: float, grey: float) -> np.ndarray:
    """Random colors on a coarse grid, enlarged smoothly; float32 [size, size, 3] around 0."""
    colours = rng.standard_normal((cells, cells, 3), dtype=np.float32)
    colours = grey * colours[..., :1] + (1 - grey) * colours
    coded = np.clip(128 + colours * (40 if cells > 2 else 60), 0, 255).astype(np.uint8)
    enlarged = Image.fromarray(coded).resize((size, size), Image.Resampling.BICUBIC)
    return (np.asarray(enlarged, dtype=np.float32) - 128.0) * np.float32(spread / 40)


def soft_texture(rng: Rng, size: int) -> np.ndarray:
    """Clouds of color without edges."""
    spread, grey = rng.uniform(6, 35), rng.uniform(0, 1)
    picture = random_colour(rng) + _grid(rng, int(rng.integers(3, 9)), size, spread, grey)
    if rng.random() < 0.5:
        picture += _grid(rng, int(rng.integers(9, 24)), size, spread * rng.uniform(0.1, 0.4), grey)
    return picture


def stripes(rng: Rng, size: int) -> np.ndarray:
    """Two colors that alternate, with soft or hard edges, straight or slanted."""
    period = size * rng.uniform(0.07, 0.3)
    angle = rng.uniform(0, math.pi) if rng.random() < 0.5 else rng.integers(0, 2) * math.pi / 2
    axis = np.arange(size, dtype=np.float32)
    along = axis[None, :] * np.float32(math.cos(angle)) + axis[:, None] * np.float32(math.sin(angle))
    wave = np.sin(along * np.float32(2 * math.pi / period) + np.float32(rng.uniform(0, 2 * math.pi)))
    hardness = np.float32(rng.choice([1.0, 2.5, 8.0]))
    weight = 0.5 + 0.5 * np.clip(wave * hardness, -1, 1)
    first = random_colour(rng)
    second = random_colour(rng) if rng.random() < 0.4 else first + rng.uniform(-70, 70, 3).astype(np.float32)
    return _between(first, second, weight)


def fractal(rng: Rng, size: int) -> np.ndarray:
    """Noise with a falling spectrum, as leaves, bark, walls and skies have it."""
    picture = random_colour(rng) + np.zeros((size, size, 3), np.float32)
    spread, fall, grey = rng.uniform(15, 60), rng.uniform(0.5, 1.2), rng.uniform(0.4, 1)
    cells = 3
    while cells <= size // 2:
        picture += _grid(rng, cells, size, spread * (3 / cells) ** fall * rng.uniform(0.5, 1.5), grey)
        cells *= 2
    return picture


def clutter(rng: Rng, size: int) -> np.ndarray:
    """Overlapping polygons, ellipses and lines of many colors, as a busy photograph has them."""
    start = gradient(rng, size) if rng.random() < 0.5 else fractal(rng, size)
    canvas = Image.fromarray(np.clip(start, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(8, 40))):
        colour = tuple(int(v) for v in random_colour(rng))
        x, y = rng.uniform(0, size, 2)
        reach = size * rng.uniform(0.03, 0.35)
        kind = rng.random()
        if kind < 0.4:
            points = rng.uniform(-reach, reach, (int(rng.integers(3, 7)), 2))
            draw.polygon([(x + dx, y + dy) for dx, dy in points], fill=colour)
        elif kind < 0.6:
            draw.ellipse((x - reach, y - reach * rng.uniform(0.3, 1), x + reach, y + reach * 0.3), fill=colour)
        elif kind < 0.75:
            draw.rectangle((x, y, x + reach, y + reach * rng.uniform(0.2, 2)), fill=colour)
        else:
            dx, dy = rng.uniform(-3, 3, 2) * reach
            draw.line((x, y, x + dx, y + dy), fill=colour, width=int(rng.integers(1, 2 + size // 64)))
    if rng.random() < 0.6:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, size / 100)))
    picture = np.asarray(canvas, dtype=np.float32)
    return picture + _grid(rng, size // 4, size, rng.uniform(0, 10), 0.8) if rng.random() < 0.4 else picture


PLAIN: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "gradient": gradient,
    "soft texture": soft_texture,
    "stripes": stripes,
}
PHOTOGRAPHIC: dict[str, Callable[[Rng, int], np.ndarray]] = {"fractal": fractal, "clutter": clutter}


def draw_background(rng: Rng, size: int, photographic: float) -> tuple[str, np.ndarray]:
    """Kind and image, float32 [size, size, 3] in 0…255; `photographic` is the share of photograph-like ones."""
    kinds = PHOTOGRAPHIC if rng.random() < photographic else PLAIN
    kind = list(kinds)[int(rng.integers(len(kinds)))]
    picture = kinds[kind](rng, size)
    if rng.random() < 0.3:
        picture = picture + _grid(rng, size // 2, size, rng.uniform(1, 5), 0.7)
    return kind, np.clip(picture, 0, 255).astype(np.float32)
