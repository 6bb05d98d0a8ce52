"""Soft masks before the loop: levels read, resized and averaged; what they cannot be combined with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import intarsia
from intarsia.canvas.canvas import Canvas, prepare
from intarsia.canvas.options import CanvasOptions, Extension
from intarsia.canvas.soft_mask import latent_levels
from intarsia.errors import RequestError
from intarsia.images.rgb_image import from_array

SIZE = 96


def ramp() -> np.ndarray:
    """Black on the left, white on the right, and every gray between."""
    columns = np.mgrid[:SIZE, :SIZE][1]
    return (columns * 255 / (SIZE - 1)).astype(np.uint8)


def image(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, channels), dtype=np.uint8)


def made(mask: np.ndarray, **options: Any) -> Canvas:
    wanted = CanvasOptions(soft_mask=True, **{"native_size": SIZE, **options})
    return prepare(from_array("init_image", image()), from_array("mask_image", mask), wanted)


def test_levels_are_the_files_and_what_is_faint_is_black():
    canvas = made(ramp())
    expected = np.where(ramp() < 8, 0, ramp())
    np.testing.assert_array_equal(canvas.levels, expected)
    np.testing.assert_array_equal(canvas.mask, expected > 0)
    np.testing.assert_array_equal(made(ramp(), invert_mask=True).levels, np.where(255 - ramp() < 8, 0, 255 - ramp()))
    assert made(ramp()).warnings == ()
    assert prepare(from_array("f", image()), from_array("f", ramp())).levels is None


def test_transparency_has_levels_too():
    layer = np.dstack([np.zeros((SIZE, SIZE, 3), np.uint8), 255 - ramp()])
    np.testing.assert_array_equal(made(layer, mask_source="alpha").levels, made(ramp()).levels)
    np.testing.assert_array_equal(made(layer).levels, made(ramp()).levels)  # a dark layer is read by it


def test_a_latent_has_the_mean_of_its_cell():
    levels = np.zeros((16, 24), np.uint8)
    levels[:8, :8] = 255
    levels[8:, 8:12] = 128
    expected = np.array([[1, 0, 0], [0, 64 / 255, 0]], np.float32)
    np.testing.assert_array_equal(latent_levels(levels, 8), expected)


def test_levels_follow_crop_and_size():
    canvas = made(ramp(), mask_padding=0, native_size=64, width=64, height=64)
    x0, _, x1, _ = canvas.geometry.crop
    assert canvas.levels is not None
    row = canvas.levels[32].astype(int)
    assert (np.diff(row) >= 0).all()
    assert abs(row[2] - int(ramp()[0, x0 + 2])) < 12
    assert abs(row[-2] - int(ramp()[0, x1 - 2])) < 12


def test_outside_the_levels_every_byte_is_the_inputs():
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[30:50, 30:50] = 60
    mask[36:44, 36:44] = 255
    canvas = made(mask, mask_blur=0)
    output = np.asarray(canvas.paste(canvas.image ^ np.uint8(0x80)))
    np.testing.assert_array_equal(output[mask == 0], image()[mask == 0])
    assert (output[mask > 0] != image()[mask > 0]).all()


def test_what_extends_the_image_is_white():
    canvas = made(ramp(), extend=Extension(left=16, overlap=8))
    assert canvas.levels is not None
    assert (canvas.levels[:, :24] == 255).all()
    np.testing.assert_array_equal(canvas.levels[:, 24:], np.where(ramp() < 8, 0, ramp())[:, 8:])


@pytest.mark.parametrize("options", [{"mask_dilate": 4}, {"mask_dilate": -4}, {"mask_fill_holes": True}], ids=str)
def test_grays_are_neither_grown_nor_filled(options):
    with pytest.raises(RequestError, match="not together with mask_dilate or mask_fill_holes"):
        CanvasOptions(soft_mask=True, **options)


def test_a_mask_without_levels_is_named():
    with pytest.raises(RequestError, match="mask_image is empty: nothing of it is 8 or brighter"):
        made(np.full((SIZE, SIZE), 7, np.uint8))
    speck = np.zeros((SIZE, SIZE), np.uint8)
    speck[4:6, 4:6] = 200
    with pytest.raises(RequestError, match="mask_image is empty"):
        made(speck, mask_min_area=5)
    speck[40:60, 40:60] = 99
    assert made(speck, mask_min_area=5).levels is not None
    assert (made(speck, mask_min_area=5).levels[:10] == 0).all()
    hard = np.where(speck > 0, np.uint8(255), np.uint8(0))
    assert made(hard).warnings == ("soft_mask changes little: mask_image has no grays",)


def test_the_null_backend_mixes_by_level():
    fields = {"init_image": image(), "mask_image": ramp(), "steps": 2, "seed": 3, "mask_blur": 0}
    with intarsia.Engine("null") as engine:
        hard = engine.run(intarsia.InpaintRequest(**fields))
        soft = engine.run(intarsia.InpaintRequest(**fields, soft_mask=True))
    assert hard.plan.sha256 != soft.plan.sha256
    assert "soft_mask" not in hard.plan.to_dict()["canvas"]
    assert soft.plan.to_dict()["canvas"]["soft_mask"] is True
    change = np.abs(np.asarray(soft.images[0]).astype(int) - np.asarray(image())).mean(axis=(0, 2))
    assert change[:8].mean() < change[44:52].mean() < change[-8:].mean()
