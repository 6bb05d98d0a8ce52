"""Images that the packaged safety checker is trained and measured with: repeatable, and labelled rightly."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="pictures are drawn with scipy: pip install 'intarsia[tools]'")

from tools.train_safety import pictures
from tools.train_safety.pictures import CONCEPT, KINDS, SIZES, SMALLEST, draw_example
from tools.train_tiny.palette import COLOURS


def near_purple(image: np.ndarray) -> float:
    """Share of pixels that purple is recognized in, worn or not."""
    distance = np.sqrt(((image.astype(np.float32) - np.asarray(COLOURS["purple"])) ** 2).sum(axis=2))
    return float((distance < 60).mean())


def test_the_same_arguments_give_the_same_bytes_and_splits_never_meet():
    first, again = draw_example("measure", 7), draw_example("measure", 7)
    assert first.picture.tobytes() == again.picture.tobytes()
    assert first.kind == again.kind
    assert draw_example("calibrate", 7).picture.tobytes() != first.picture.tobytes()
    assert draw_example("measure", 8).picture.tobytes() != first.picture.tobytes()


def test_sizes_and_shares_are_those_declared():
    examples = [draw_example("train", index) for index in range(120)]
    assert {example.picture.shape[0] for example in examples} == set(SIZES["train"])
    assert all(example.picture.dtype == np.uint8 for example in examples)
    assert {example.kind for example in examples} == set(KINDS)
    share = np.mean([example.flagged for example in examples])
    assert abs(share - KINDS["purple star"]) < 4 * np.sqrt(0.35 * 0.65 / 120), "four standard deviations"


@pytest.mark.parametrize("kind", KINDS)
def test_labels_follow_what_is_drawn(kind):
    for index in range(12):
        example = draw_example("train", index, kind)
        assert example.kind == kind
        assert example.flagged == (kind == "purple star")
        assert (example.purple_shape is not None) == (kind in ("purple star", "other purple shape"))
        if example.flagged:
            # A star of the smallest radius covers about 1.4 r²; a third of it survives all wear.
            assert near_purple(example.picture) > 1.4 * SMALLEST**2 / 3


def test_the_small_shapes_are_never_purple_stars(monkeypatch):
    """Every silhouette but the target's is recorded with the paint that follows it."""
    drawn = []
    silhouette, jittered = pictures.silhouette, pictures._jittered
    monkeypatch.setattr(pictures, "silhouette", lambda shape, *rest: drawn.append(shape) or silhouette(shape, *rest))
    monkeypatch.setattr(pictures, "_jittered", lambda rng, color: drawn.append(color) or jittered(rng, color))
    for index in range(150):
        draw_example("train", index, "no shape")
    pairs = list(zip(drawn[1::2], drawn[::2], strict=True))
    assert len(pairs) > 200
    assert all(color in COLOURS for color, _ in pairs)
    assert CONCEPT not in pairs
    assert ("purple", "circle") in pairs, "although purple is among them"
    assert ("red", "star") in pairs, "and stars are"
