"""A whole session on fused kernels and static batches, under Triton's interpreter: the images of the plain one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.interpreter import need_interpreter, round_e4m3_as_torch

need_interpreter()

import intarsia
from intarsia.backends.torch.backend import TorchBackend
from intarsia.engine.resolve import resolve
from tests.noise_request import noise_request

SIZE = 64


@pytest.mark.slow
def test_fused_and_plain_sessions_paint_the_same(tmp_path):
    pytest.importorskip("diffusers", reason="makes its model with diffusers: pip install 'intarsia[torch]'")
    from tests.random_model import write_model, write_registry

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


@pytest.mark.slow
@pytest.mark.parametrize("merging", [0.0, 0.5])
def test_fused_and_plain_sessions_in_e4m3_paint_the_same(monkeypatch, merging):
    """On the packaged model's own layers; quantizing turns last bits into steps of e4m3 now and then."""
    round_e4m3_as_torch(monkeypatch)
    monkeypatch.setattr(TorchBackend, "simulates", True)
    request = noise_request(128, slice(16, 40), slice(16, 40), steps=1, strength=1.0, token_merging=merging)
    results = []
    for kernels in ("plain", "fused"):
        with intarsia.Engine("torch", "cpu", kernels=kernels, precision="fp8") as engine:
            results.append(engine.run(request))
    assert [(result.ran["kernels"], result.ran["precision"]) for result in results] == [
        ("plain", "fp8"),
        ("fused", "fp8"),
    ]
    assert not any(result.warnings for result in results)
    plain, fused = (result.drawn[0].astype(np.int16) for result in results)
    assert np.abs(plain - fused).max() <= 4
    assert np.abs(plain - fused).mean() <= 0.1
