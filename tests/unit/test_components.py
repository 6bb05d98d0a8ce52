"""Connected areas of masks: holes and specks, against a flood fill and, where it is installed, scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from intarsia.canvas.canvas import prepare
from intarsia.canvas.components import drop_specks, fill_holes, largest_area
from intarsia.canvas.options import CanvasOptions, pixels_of
from intarsia.errors import RequestError
from intarsia.images.rgb_image import from_array

EDGES = ((-1, 0), (1, 0), (0, -1), (0, 1))
CORNERS = (*EDGES, (-1, -1), (-1, 1), (1, -1), (1, 1))

masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(lambda shape: arrays(np.bool_, shape))


def areas_of(mask: np.ndarray, steps: tuple[tuple[int, int], ...]) -> list[list[tuple[int, int]]]:
    """The connected areas of a mask as lists of points, by flood fill."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    areas = []
    while left:
        waiting, area = [left.pop()], []
        while waiting:
            y, x = waiting.pop()
            area.append((y, x))
            for down, across in steps:
                near = (y + down, x + across)
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        areas.append(area)
    return areas


@given(masks, st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_specks_are_areas_with_fewer_pixels(mask, least):
    expected = np.zeros_like(mask)
    areas = areas_of(mask, CORNERS)
    for area in areas:
        if len(area) >= least:
            expected[tuple(zip(*area, strict=True))] = True
    np.testing.assert_array_equal(drop_specks(mask, least), expected)
    assert largest_area(mask) == max(map(len, areas), default=0)


@given(masks)
@settings(max_examples=200, deadline=None)
def test_holes_are_what_does_not_reach_the_border(mask):
    bottom, right = mask.shape[0] - 1, mask.shape[1] - 1
    expected = mask.copy()
    for area in areas_of(~mask, EDGES):
        if not any(y in (0, bottom) or x in (0, right) for y, x in area):
            expected[tuple(zip(*area, strict=True))] = True
    np.testing.assert_array_equal(fill_holes(mask), expected)


def spiral(side: int) -> np.ndarray:
    """One winding line, the worst case for labels that travel from run to run."""
    mask = np.zeros((side, side), np.bool_)
    y, x, down, across = 0, 0, 0, 1
    length = side - 1
    mask[0, 0] = True
    turns = 0
    while length > 0:
        for _ in range(length):
            y, x = y + down, x + across
            mask[y, x] = True
        down, across = across, -down
        turns += 1
        if turns > 2 and turns % 2:
            length -= 2
    return mask


@pytest.mark.parametrize("name", ["noise", "dense", "spiral", "comb"])
def test_labels_are_those_of_scipy(name):
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")
    random = np.random.default_rng(1).random((300, 400))
    comb = np.zeros((200, 200), np.bool_)
    comb[:, ::2] = True
    comb[-1] = True
    mask = {"noise": random < 0.4, "dense": random < 0.6, "spiral": spiral(151), "comb": comb}[name]
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    for least in (2, 5, 1000):
        kept = (sizes >= least) & (np.arange(count + 1) > 0)
        np.testing.assert_array_equal(drop_specks(mask, least), kept[labels])
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def area_of(mask: np.ndarray, **options: Any) -> np.ndarray:
    image = from_array("init_image", np.zeros((*mask.shape, 3), np.uint8))
    return prepare(image, from_array("mask_image", mask), CanvasOptions(**options)).area


def test_holes_before_specks_before_the_growth():
    mask = np.zeros((80, 80), np.uint8)
    mask[20:40, 20:40] = 255
    mask[21:39, 21:39] = 0  # an outline of 76 pixels around 324
    mask[60, 60] = 255
    expected = np.zeros((80, 80), np.bool_)
    expected[20:40, 20:40] = True
    np.testing.assert_array_equal(area_of(mask, mask_fill_holes=True, mask_min_area=100), expected)
    smaller = np.zeros((80, 80), np.bool_)
    smaller[23:37, 23:37] = True
    np.testing.assert_array_equal(area_of(mask, mask_fill_holes=True, mask_min_area="5%", mask_dilate=-3), smaller)
    with pytest.raises(RequestError, match="empty: its largest area has 76 pixels, and mask_min_area is 100"):
        area_of(mask, mask_min_area=100)
    with pytest.raises(RequestError, match="empty: mask_dilate -10 leaves nothing of it"):
        area_of(mask, mask_fill_holes=True, mask_dilate=-10)


def test_per_cent_are_of_the_whole_image():
    assert pixels_of("0.5%", (640, 480)) == 1536
    assert pixels_of("0.0001%", (10, 10)) == 1
    assert pixels_of(7, (10, 10)) == 7
