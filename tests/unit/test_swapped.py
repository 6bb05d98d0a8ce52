"""Image and mask the wrong way round are named; masks with grays are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from intarsia.canvas.canvas import prepare
from intarsia.canvas.swapped import about_swapped
from intarsia.images.rgb_image import RgbImage, from_array, from_bytes

HEIGHT, WIDTH = 120, 160


def photograph(*, gray: bool = False) -> np.ndarray:
    """Tones and colors of all kinds, blurred noise on a gradient."""
    noise = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2))).astype(np.int32)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    slope = np.dstack([columns, rows, 160 - columns])
    shown = np.clip(2 * (soft - 128) + 40 + slope, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(shown).convert("L").convert("RGB")) if gray else shown


def spot(blur: float = 0) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30:90, 40:120] = 255
    return np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(blur)))


def as_jpeg(field: str, pixels: np.ndarray) -> RgbImage:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
    return from_bytes(field, buffer.getvalue(), "the image")


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("read", [from_array, as_jpeg])
def test_a_swap_is_named(gray, read):
    image, mask = read("init_image", spot()), read("mask_image", photograph(gray=gray))
    warnings = prepare(image, mask).warnings
    assert warnings[0].startswith(
        "image and mask look swapped: 100% of init_image is black or white, as of a mask, and "
    )


def test_a_photograph_as_mask_is_named():
    image = from_array("init_image", photograph())
    (warning,) = about_swapped(image, from_array("mask_image", photograph()[::-1]))
    assert warning.startswith("mask_image looks like a photograph: ")


@pytest.mark.parametrize("name", ["hard", "soft", "very soft", "gray", "steps", "slope", "inverted"])
def test_masks_are_not_taken_for_photographs(name):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = {
        "hard": spot(),
        "soft": spot(6),
        "very soft": spot(20),
        "gray": np.full((HEIGHT, WIDTH), 140, np.uint8),
        "steps": np.where(rows < 60, 90, 180).astype(np.uint8),
        "slope": (columns + rows).clip(0, 255).astype(np.uint8),
        "inverted": 255 - spot(6),
    }[name]
    for shown in (photograph(), spot()):
        assert about_swapped(from_array("init_image", shown), from_array("mask_image", mask)) == ()


def test_a_photograph_with_an_erased_part_is_a_mask():
    erased = np.dstack([photograph(), 255 - spot()])
    assert about_swapped(from_array("init_image", spot()), from_array("mask_image", erased)) == ()
