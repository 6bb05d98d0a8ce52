"""The scenes that intarsia-tiny is trained and measured on, and the judge that measures it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the training tools need scipy")

from tools.train_tiny import captions, judge
from tools.train_tiny.palette import COLOURS, SHAPES
from tools.train_tiny.scenes import MEASURING, Scene, draw_scene

SCENES = 60


@pytest.fixture(scope="module")
def measured() -> list[Scene]:
    return [draw_scene("measure", index, 256, MEASURING) for index in range(SCENES)]


def test_a_scene_is_a_function_of_its_split_index_and_size() -> None:
    first, again = draw_scene("train", 7, 256), draw_scene("train", 7, 256)
    assert first.caption == again.caption
    for name in ("picture", "background", "mask"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert not np.array_equal(first.picture, draw_scene("train", 8, 256).picture)
    assert not np.array_equal(first.picture, draw_scene("measure", 7, 256).picture)


@pytest.mark.parametrize("size", [256, 512])
def test_images_and_masks_have_the_asked_size_and_type(size: int) -> None:
    for index in range(8):
        scene = draw_scene("train", index, size)
        assert scene.picture.shape == (size, size, 3)
        assert scene.picture.dtype == np.uint8
        assert scene.mask.shape == (size, size)
        assert scene.mask.dtype == np.bool_
        assert 0.005 < scene.mask.mean() < 0.85


def test_the_named_shape_lies_inside_the_mask_and_nothing_else_differs(measured: list[Scene]) -> None:
    for scene in measured:
        changed = (scene.picture != scene.background).any(-1)
        assert changed.mean() > 0.005
        # A shape fills the room that the mask has, found on a 64² grid: tips may stand out a little.
        assert (changed & ~scene.mask).sum() <= 0.08 * changed.sum()


def test_without_a_named_shape_the_truth_is_the_background() -> None:
    empty = [scene for scene in (draw_scene("train", i, 256) for i in range(SCENES)) if scene.shape is None]
    assert 0.15 * SCENES < len(empty) < 0.55 * SCENES
    for scene in empty:
        assert np.array_equal(scene.picture, scene.background)
        assert not set(scene.caption.lower().split()) & {*COLOURS, *SHAPES}
    assert any(scene.caption == "" for scene in empty)
    assert any(scene.caption for scene in empty)


def test_measured_captions_have_the_documented_form(measured: list[Scene]) -> None:
    for scene in measured:
        assert scene.caption == f"a {scene.colour} {scene.shape}"
    assert {scene.colour for scene in measured} == set(COLOURS)
    assert {scene.shape for scene in measured} == set(SHAPES)


def test_training_captions_name_the_color_and_the_shape() -> None:
    for index in range(SCENES):
        scene = draw_scene("train", index, 256)
        if scene.shape is not None:
            assert scene.colour is not None
            assert f"{scene.colour} {scene.shape}" in scene.caption.lower()


def test_every_word_of_the_captions_is_known_to_the_tokenizer() -> None:
    words = " ".join((*captions.TEMPLATES, *captions.ENDINGS)).replace("{thing}", "").replace(",", "").split()
    assert {word for word in words if not word[0].isdigit()} <= set(captions.KNOWN_WORDS)


def test_the_judge_reads_true_drawings(measured: list[Scene]) -> None:
    found = [judge.judge(scene.picture, scene.background, scene.mask) for scene in measured]
    assert [verdict.colour for verdict in found] == [scene.colour for scene in measured]
    assert [verdict.shape for verdict in found] == [scene.shape for scene in measured]


def test_the_judge_is_at_chance_when_the_drawing_is_another_scenes(measured: list[Scene]) -> None:
    pairs = list(itertools.combinations(measured, 2))
    same_shape = np.mean([judged.shape == asked.shape for judged, asked in pairs])
    read = {id(scene): judge.judge(scene.picture, scene.background, scene.mask) for scene in measured}
    agreed = np.mean([read[id(judged)].shape == asked.shape for judged, asked in pairs])
    assert agreed == pytest.approx(same_shape, abs=0.02)
    assert agreed < 0.35


def test_the_judge_sees_nothing_where_the_background_goes_on(measured: list[Scene]) -> None:
    for scene in measured:
        verdict = judge.judge(scene.background, scene.background, scene.mask)
        assert verdict.colour is None
        assert verdict.shape is None
