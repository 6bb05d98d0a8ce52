"""A whole session on fused kernels and static batches, under Triton's interpreter: the pictures of the plain one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cpu.interpreted import need_interpreter

need_interpreter()
pytest.importorskip("diffusers", reason="makes its model with diffusers: pip install 'intarsia[torch]'")

import intarsia
from intarsia.engine.resolve import resolve
from tests.random_model import write_model, write_registry

SIZE = 64


def test_fused_and_plain_sessions_paint_the_same(tmp_path):
    registry = write_registry(tmp_path / "w.toml", nine=(write_model(tmp_path / "nine", 9, "tiny"), "sd15-inpaint"))
    image = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[10:50, 12:52] = 255
    request = intarsia.InpaintRequest(
        init_image=image, mask_image=mask, width=SIZE, height=SIZE, prompt="ab", seed=3, steps=2,
        scheduler="EulerAncestralDiscreteScheduler", strength=1.0, guidance_scale=3.0, mask_blur=2.0,
    )  # fmt: skip
    results = []
    for kernels in ("plain", "fused"):
        with intarsia.Engine("torch", "cpu", registry, kernels=kernels) as engine:
            results.append(engine.run(request))
    assert [result.ran["kernels"] for result in results] == ["plain", "fused"]
    for kind in ("generated", "images"):
        one, other = (np.asarray(getattr(result, kind)[0], np.int16) for result in results)
        assert np.abs(one - other).max() <= 1, "float32 in another order: at most one level after rounding"
    outside = ~resolve(request, intarsia.Registry(registry)).canvas.touched()
    assert 0.1 < outside.mean() < 0.9
    np.testing.assert_array_equal(np.asarray(results[1].images[0])[outside], image[outside])
