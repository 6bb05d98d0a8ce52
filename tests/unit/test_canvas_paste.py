"""Blending and color match, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from intarsia.canvas.canvas import prepare
from intarsia.canvas.mask import Feather
from intarsia.canvas.options import CanvasOptions
from intarsia.canvas.paste import blend, match_colors, overlap, paste_area
from intarsia.images.rgb_image import from_array


def test_blend_is_the_rounded_mean_for_every_pair_and_weight():
    base, over = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for weight in (0, 1, 2, 85, 127, 128, 254, 255):
        mixed = blend(base, over, np.full(base.shape, weight, np.uint8)).astype(np.float64)
        exact = base + (over.astype(np.float64) - base) * weight / 255
        assert np.abs(mixed - exact).max() <= 0.5
    np.testing.assert_array_equal(blend(base, over, np.zeros_like(base)), base)
    np.testing.assert_array_equal(blend(base, over, np.full_like(base, 255)), over)


@pytest.mark.parametrize("shape", [(1, 1), (700, 1300, 3), (3, 40000, 3), (70000, 1), (0, 5, 3)])
def test_blend_is_the_same_in_strips_of_any_shape(shape):
    rng = np.random.default_rng(1)
    base, over = rng.integers(0, 256, (2, *shape), np.uint8)
    weights = rng.integers(0, 256, shape[:2], np.uint8)
    share = (weights if len(shape) == 2 else weights[:, :, None]).astype(np.int64)
    exact = (over * share + base * (255 - share) + 127) // 255
    mixed = blend(base, over, weights)
    assert mixed.dtype == np.uint8
    np.testing.assert_array_equal(mixed, exact)


def test_boxes_overlap_where_both_are_and_nowhere_else():
    assert overlap((0, 0, 10, 10), (5, 3, 20, 8)) == (5, 3, 10, 8)
    x0, y0, x1, y1 = overlap((0, 0, 4, 4), (6, 6, 8, 8))
    assert (x1 - x0) * (y1 - y0) == 0


def test_a_feather_that_reaches_out_of_the_crop_is_cut_there():
    base, area = np.zeros((20, 20, 3), np.uint8), np.full((6, 6, 3), 200, np.uint8)
    out = paste_area(base, area, (4, 4, 10, 10), Feather((0, 0, 8, 8), np.full((8, 8), 255, np.uint8)))
    expected = np.zeros_like(base)
    expected[4:8, 4:8] = 200
    np.testing.assert_array_equal(out, expected)
    assert not base.any()


def test_color_match_restores_mean_and_spread():
    rng = np.random.default_rng(0)
    base = rng.normal(120, 24, (96, 96, 3)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((96, 96), np.bool_)
    mask[30:60, 30:60] = True
    drawn = np.rint((base.astype(float) - 120) * 0.85 + 100).astype(np.uint8)
    matched = match_colors(drawn, base, mask, 12)
    assert np.abs(matched.astype(int) - base).mean() < 1
    shifted_only = drawn.astype(int) + 20
    assert np.abs(shifted_only - base).mean() > 2  # what the shift without the gain would leave


def test_color_match_limits_its_gain():
    base = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.bool_)
    mask[20:40, 20:40] = True
    flat = np.random.default_rng(1).integers(118, 138, (64, 64, 3), dtype=np.uint8)
    matched = match_colors(flat, base, mask, 8).astype(int)
    assert matched.max() - matched.min() <= 20 * 1.25 + 12  # not blown up to the original's spread


def test_color_match_flattens_no_further_than_its_least_gain():
    drawn = np.random.default_rng(0).integers(60, 196, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.bool_)
    mask[20:40, 20:40] = True
    matched = match_colors(drawn, np.full_like(drawn, 100), mask, 8)
    np.testing.assert_allclose(matched.std(axis=(0, 1)), 0.8 * drawn.std(axis=(0, 1)), rtol=0.01)


def test_color_match_looks_no_further_than_its_ring():
    rows, columns = np.mgrid[:64, :64]
    mask = (abs(rows - 32) < 8) & (abs(columns - 32) < 8)
    base = np.full((64, 64, 3), 220, np.uint8)
    base[24 - 9 : 41 + 9, 24 - 9 : 41 + 9] = 100
    matched = match_colors(np.full_like(base, 120), base, mask, 9)
    assert (matched == 100).all()


def test_mask_dilate_is_in_pixels_of_the_original():
    mask = np.zeros((80, 80), np.bool_)
    mask[40, 40] = True
    image = from_array("init_image", np.zeros((80, 80, 3), np.uint8))
    area = prepare(image, from_array("mask_image", mask), CanvasOptions(mask_dilate=7)).area
    rows, columns = np.mgrid[:80, :80]
    np.testing.assert_array_equal(area, (rows - 40) ** 2 + (columns - 40) ** 2 <= 49)
    fixed = CanvasOptions(mask_dilate=7, width=160, height=160, fixed_size=True)
    doubled = prepare(image, from_array("mask_image", mask), fixed).area
    assert abs(doubled.sum() / area.sum() - 4) < 0.3
