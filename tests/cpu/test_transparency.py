"""A transparent hole through the packaged model: filled from what is around it, whatever is stored there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")

import intarsia

SIZE = 128
HOLE = np.zeros((SIZE, SIZE), np.bool_)
HOLE[40:88, 40:88] = True


@pytest.fixture(scope="module")
def engine() -> Iterator[intarsia.Engine]:
    with intarsia.Engine("onnx", "cpu") as opened:
        yield opened


def photograph() -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.dstack((150 + 40 * np.sin(columns / 40), 140 + 30 * np.sin(rows / 35), 120 + 0 * rows)).astype(np.uint8)


@pytest.mark.parametrize("content", ["original", "noise"])
def test_the_hole_takes_after_its_surroundings(engine, content):
    results = []
    for hidden in (0, 255):
        colors = np.where(HOLE[:, :, None], np.uint8(hidden), photograph())
        image = np.dstack([colors, np.where(HOLE, 0, 255)]).astype(np.uint8)
        size = {"width": SIZE, "height": SIZE}
        request = intarsia.InpaintRequest(
            init_image=image, mask_image=HOLE, seed=3, steps=8, masked_content=content, **size
        )
        results.append(engine.run(request))
    first, second = (np.asarray(result.images[0]) for result in results)
    np.testing.assert_array_equal(*(np.asarray(result.generated[0]) for result in results))
    np.testing.assert_array_equal(first, second)
    assert (first[:, :, 3] == 255).all()
    around = photograph()[32:96, 32:96].reshape(-1, 3).mean(axis=0)
    assert np.abs(first[44:84, 44:84, :3].reshape(-1, 3).mean(axis=0) - around).mean() < 40
