"""A comparison with the packaged model: what cells share, and that each has the bits that it has alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")

import intarsia
from intarsia.comparing.axes import split
from intarsia.comparing.running import run_comparison


def test_cells_share_evaluations_and_have_the_bits_that_they_have_alone():
    image = Image.new("RGB", (64, 64), "navy")
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse((12, 12, 52, 52), fill=255)
    fields, axes = split(
        {
            "init_image": image, "mask_image": mask, "prompt": "a red circle", "seed": 7, "strength": 1.0,
            "scheduler": ["euler", "ddim", "dpm++2m"], "steps": [2, 3, 4], "model": "intarsia-tiny",
        }
    )  # fmt: skip
    with intarsia.Engine("onnx", "cpu") as engine:
        made = run_comparison(engine, fields, axes)
        assert (made.counters.lane_rows, made.counters.evaluations) == (27, 4)
        for cell in made.cells:
            alone = engine.run(intarsia.InpaintRequest(**cell.fields)).images[0]
            np.testing.assert_array_equal(np.asarray(cell.thumbnails[0]), np.asarray(alone))

    bits = {np.asarray(cell.thumbnails[0]).tobytes() for cell in made.cells}
    assert len(bits) == 9
    assert made.grid().size > (3 * 64, 3 * 64)
