"""Masks: fitting, growing, feathering, resizing; each against a slow definition of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter

from intarsia.canvas.mask import (
    bounding_box,
    dilate,
    erode,
    feather,
    feather_reach,
    fit_mask,
    latent_mask,
    resize_mask,
)
from intarsia.errors import RequestError

masks = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda shape: arrays(np.bool_, shape))


def test_fitting_another_size_of_the_same_aspect():
    mask = np.zeros((40, 60), np.bool_)
    mask[10:20, 15:45] = True
    fitted, notes = fit_mask(mask, (120, 80))
    np.testing.assert_array_equal(fitted, np.repeat(np.repeat(mask, 2, 0), 2, 1))
    assert notes == ("mask_image was resized from 60x40 to the image's 120x80",)
    smaller, _ = fit_mask(mask, (30, 20))
    np.testing.assert_array_equal(smaller, mask[1::2, 1::2])
    assert fit_mask(mask, (60, 40)) == (mask, ())


@pytest.mark.parametrize(
    ("mask", "image"), [((512, 384), (1023, 767)), ((511, 383), (1023, 767)), ((100, 75), (4000, 3000))]
)
def test_rounded_aspect_ratios_fit(mask, image):
    fitted, _ = fit_mask(np.ones(mask[::-1], np.bool_), image)
    assert fitted.shape == image[::-1]


@pytest.mark.parametrize(
    ("mask", "image"),
    [((512, 512), (512, 768)), ((1, 1), (2, 1)), ((512, 500), (512, 512)), ((3, 2), (2, 3))],
)
def test_other_aspect_ratios_do_not(mask, image):
    with pytest.raises(RequestError, match=f"the mask is {mask[0]}x{mask[1]}, the image {image[0]}x{image[1]}"):
        fit_mask(np.ones(mask[::-1], np.bool_), image)


@given(masks, st.integers(0, 12))
@settings(max_examples=80, deadline=None)
def test_dilation_is_every_pixel_within_the_radius(mask, radius):
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    expected = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        expected |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    before = mask.copy()
    np.testing.assert_array_equal(dilate(mask, radius), expected)
    np.testing.assert_array_equal(mask, before)


@given(masks, st.integers(0, 6), st.sampled_from([0, 2]))
@settings(max_examples=80, deadline=None)
def test_erosion_takes_every_pixel_within_the_radius_of_an_unmasked_one(mask, radius, margin):
    mask = np.pad(mask, margin)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    expected = mask.copy()
    for y, x in np.argwhere(~mask) if radius else ():
        expected &= (rows - y) ** 2 + (columns - x) ** 2 > radius**2
    before = mask.copy()
    np.testing.assert_array_equal(erode(mask, radius), expected)
    np.testing.assert_array_equal(mask, before)


@given(masks)
@settings(max_examples=50, deadline=None)
def test_the_bounding_box_is_that_of_all_masked_points(mask):
    box = bounding_box(mask)
    points = np.argwhere(mask)
    if box is None:
        assert not len(points)
        return
    (y0, x0), (y1, x1) = points.min(axis=0), points.max(axis=0) + 1
    assert box == (x0, y0, x1, y1)


@given(masks, st.sampled_from([0.0, 0.2, 0.5, 1.0, 2.5, 4.0, 9.0]))
@settings(max_examples=80, deadline=None)
def test_a_feather_is_full_in_the_mask_and_ends_within_its_reach(mask, blur):
    shade = feather(mask, blur)
    full = np.zeros(mask.shape, np.uint8)
    x0, y0, x1, y1 = shade.box
    assert shade.weights.shape == (y1 - y0, x1 - x0)
    full[y0:y1, x0:x1] = shade.weights
    assert (full[mask] == 255).all()
    assert (full[~mask] < 255).all()
    near = dilate(mask, int(np.ceil(np.hypot(1, 1) * feather_reach(blur))))
    assert (full[~near] == 0).all()
    if blur == 0:
        np.testing.assert_array_equal(full, mask * 255)


@given(masks, st.sampled_from([0.2, 0.9, 1.0, 1.1, 2.0, 2.5, 3.0, 4.0, 5.75]), st.sampled_from([0, 40]))
@settings(max_examples=150, deadline=None)
def test_feather_is_what_a_blur_of_the_whole_image_gives(mask, blur, margin):
    """The box that is blurred holds all that the blur can reach."""
    mask = np.pad(mask, margin)
    hard = mask * np.uint8(255)
    soft = np.asarray(Image.fromarray(hard).filter(ImageFilter.GaussianBlur(blur)))
    shade = feather(mask, blur)
    full = np.zeros(mask.shape, np.uint8)
    x0, y0, x1, y1 = shade.box
    full[y0:y1, x0:x1] = shade.weights
    np.testing.assert_array_equal(full, np.where(mask, 255, 2 * np.minimum(soft, 127)))


def test_feather_falls_smoothly_from_a_straight_edge():
    mask = np.zeros((200, 200), np.bool_)
    mask[:, :100] = True
    shade = feather(mask, 4.0)
    row = shade.weights[100].astype(int)
    assert (np.diff(row) <= 0).all()
    assert np.abs(np.diff(row)).max() <= 51  # a fifth of the whole step
    assert row[100] > 200
    assert 110 <= len(row) <= 116  # about three standard deviations beyond the mask


def test_feather_is_the_same_inside_a_crop():
    """Computed on a region, it is what it would be on the whole image."""
    mask = np.zeros((400, 300), np.bool_)
    mask[150:220, 100:180] = True
    whole, moved = feather(mask, 6.0), feather(mask[50:350, 20:], 6.0)
    np.testing.assert_array_equal(whole.weights, moved.weights)
    assert whole.box == (moved.box[0] + 20, moved.box[1] + 50, moved.box[2] + 20, moved.box[3] + 50)


@given(masks, st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=80, deadline=None)
def test_resizing_loses_no_stroke(mask, width, height):
    out = resize_mask(mask, (width, height))
    assert out.shape == (height, width)
    assert out.any() == mask.any()
    if mask.all():
        assert out.all()
    if (width, height) == (mask.shape[1], mask.shape[0]):
        np.testing.assert_array_equal(out, mask)


def test_a_half_covered_pixel_is_on():
    mask = np.zeros((8, 8), np.bool_)
    mask[:, :3] = True  # the second of four columns is 1/8 + 3/8 covered, by a triangle's weights
    np.testing.assert_array_equal(resize_mask(mask, (4, 4)), np.repeat([[True, True, False, False]], 4, axis=0))


def test_a_thin_line_survives_being_scaled_down():
    mask = np.zeros((800, 800), np.bool_)
    mask[:, 401] = True
    assert resize_mask(mask, (100, 100)).any(axis=1).all()
    assert fit_mask(mask, (100, 100))[0].any(axis=1).all()


def test_latent_mask_is_the_top_left_pixel_of_each_cell():
    blob = dilate(np.pad(np.ones((1, 1), np.bool_), 64)[:128, :128], 30)
    latents = latent_mask(blob)
    assert latents.dtype == np.float32
    np.testing.assert_array_equal(latents, blob[::8, ::8])


def test_latent_mask_keeps_strokes_between_the_sampled_pixels():
    mask = np.zeros((64, 64), np.bool_)
    mask[11:14, 3:61] = True  # between rows 8 and 16
    latents = latent_mask(mask)
    np.testing.assert_array_equal(latents[1], 1)
    assert latents.sum() == 8
    with pytest.raises(ValueError, match="multiples of 8"):
        latent_mask(np.ones((60, 64), np.bool_))


@given(masks, st.sampled_from([2, 4, 8]))
@settings(max_examples=80, deadline=None)
def test_latent_mask_turns_on_covered_cells_that_the_sampling_left_alone(mask, factor):
    mask = np.pad(mask, [(0, -side % factor) for side in mask.shape])
    rows, columns = (side // factor for side in mask.shape)
    sampled = mask[::factor, ::factor]
    expected = sampled.astype(np.float32)
    for row, column in np.ndindex(rows, columns):
        cell = mask[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        near = sampled[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        if cell.any() and not near.any():
            expected[row, column] = 1
    np.testing.assert_array_equal(latent_mask(mask, factor), expected)
