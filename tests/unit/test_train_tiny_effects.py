"""The effects that the packaged LoRAs teach, and the measure of how much of one is in an image."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the training tools need scipy")

from tools.train_tiny.palette import COLOURS
from tools.train_tiny.scenes import MEASURING, Scene, draw_scene
from tools.train_tiny_parts.effects import BLACK, EFFECTS, WHITE, drawn, pastel, rows_of, shade, share, stripes

HEIGHTS = np.asarray([0.1, 0.3, 0.5, 0.7, 0.9], np.float32)  # the middles of five bands


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene("measure", 20_000, 256, MEASURING)


def own_color(name: str) -> np.ndarray:
    return np.asarray(COLOURS[name], np.float32)


@pytest.mark.parametrize(("name", "other"), [("red", WHITE), ("black", WHITE), ("yellow", BLACK), ("white", BLACK)])
def test_stripes_alternate_and_begin_and_end_with_the_shapes_own_color(name: str, other: np.ndarray) -> None:
    own = own_color(name)
    np.testing.assert_array_equal(stripes(HEIGHTS, own), [own, other, own, other, own])


def test_pastel_is_the_color_nearer_to_white_and_white_stays_white() -> None:
    rows = pastel(HEIGHTS, own_color("red"))
    np.testing.assert_allclose(rows, [[239.25, 158.25, 158.25]] * 5)
    np.testing.assert_array_equal(pastel(HEIGHTS, WHITE), [WHITE] * 5)


def test_shade_falls_from_white_to_black_and_has_the_color_at_two_fifths() -> None:
    red = own_color("red")
    rows = shade(np.linspace(0, 1, 11, dtype=np.float32), red)
    assert (np.diff(rows, axis=0) < 0).all()
    np.testing.assert_allclose(rows[0], red + 0.4 * (WHITE - red), rtol=1e-5)
    np.testing.assert_allclose(rows[4], red, atol=1e-3)
    np.testing.assert_allclose(rows[-1], red + 0.6 * (BLACK - red), rtol=1e-5)


def test_rows_are_counted_from_the_shapes_top_to_its_bottom() -> None:
    coverage = np.zeros((16, 16), np.float32)
    coverage[4:12, 3] = 1.0
    heights = rows_of(coverage)
    np.testing.assert_allclose(heights[[4, 11]], [0.0625, 0.9375])
    assert heights[3] < 0
    assert heights[12] > 1


@pytest.mark.parametrize("name", EFFECTS)
def test_the_share_of_an_effect_is_none_in_the_plain_drawing_and_all_in_its_own(scene: Scene, name: str) -> None:
    effect = EFFECTS[name]
    own = drawn(scene, effect)
    assert share(scene.picture, scene, effect) == 0.0
    assert share(own, scene, effect) == pytest.approx(1.0)
    half = (scene.picture.astype(np.float32) + own) / 2
    assert share(half, scene, effect) == pytest.approx(0.5)


@pytest.mark.parametrize("name", EFFECTS)
def test_an_effect_changes_the_named_shape_alone(scene: Scene, name: str) -> None:
    assert scene.coverage is not None
    changed = (drawn(scene, EFFECTS[name]) != scene.picture).any(-1)
    assert changed.any()
    assert not (changed & (scene.coverage == 0)).any()


def test_a_scene_without_a_shape_is_drawn_as_it_is_and_measured_on_nothing() -> None:
    empty = next(found for i in range(60) if (found := draw_scene("train", i, 256)).shape is None)
    assert drawn(empty, stripes) is empty.picture
    with pytest.raises(ValueError, match="names no shape"):
        share(empty.picture, empty, stripes)
