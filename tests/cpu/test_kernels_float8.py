"""tests/kernels/float8.py under Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.cpu.interpreted import need_interpreter

need_interpreter()

import numpy as np
import torch

import intarsia
from intarsia.backends.torch.backend import TorchBackend
from tests.kernels.float8 import *  # noqa: F403 - the tests, with a device of their own
from tests.noise_request import noise_request


@pytest.fixture
def device():
    return "cpu"


@pytest.fixture
def product_dtype():
    return torch.float32


@pytest.fixture(autouse=True)
def _rounding_that_carries(monkeypatch):
    """Triton 3.6's interpreter rounds 127 to 64 in e4m3, not to 128, and knows no NaN there; torch does it here."""
    import triton.language as tl
    from triton.runtime import interpreter

    original = interpreter._convert_float

    def convert(data, source, target, rounding):
        if (source, target) != (tl.float32, tl.float8e4nv):
            return original(data, source, target, rounding)
        return torch.from_numpy(data.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)


@pytest.mark.parametrize("merging", [0.0, 0.5])
def test_fused_and_plain_sessions_paint_the_same(monkeypatch, merging):
    """On the packaged model's own layers; quantizing turns last bits into steps of e4m3 now and then."""
    monkeypatch.setattr(TorchBackend, "simulates", True)
    request = noise_request(128, slice(16, 40), slice(16, 40), steps=2, token_merging=merging)
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
