"""Precision fp8 on a GPU: its images against half precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.gpu.needs import need_compiled_kernels, need_float8

need_compiled_kernels()
need_float8()


import intarsia
from tests.noise_request import noise_request

SIZE = 128


def painted(merging: float = 0.0, **how: Any) -> intarsia.Result:
    """An image, made three times: launched, captured, replayed."""
    request = noise_request(SIZE, slice(16, 60), slice(10, 54), steps=4, token_merging=merging)
    with intarsia.Engine("torch", "cuda", deterministic=True, **how) as engine:
        results = [engine.run(request) for _ in range(3)]
    assert {result.ran["precision"] for result in results} == {how.get("precision", "standard")}
    for result in results[1:]:
        np.testing.assert_array_equal(result.drawn[0], results[0].drawn[0])
    return results[0]


def decibels(one: intarsia.Result, other: intarsia.Result) -> float:
    error = np.mean((one.drawn[0].astype(np.float64) - other.drawn[0]) ** 2)
    return 10 * np.log10(255**2 / max(error, 1 / 12))


@pytest.mark.parametrize("merging", [0.0, 0.5])
def test_images_are_those_of_half_precision_to_35_decibels(merging):
    """The simulation on a CPU is 48 dB from float32."""
    half, found = painted(merging), painted(merging, precision="fp8")
    assert decibels(half, found) >= 35
    assert not np.array_equal(half.drawn[0], found.drawn[0]), "nothing was in e4m3"


def test_kernels_and_references_paint_the_same():
    """They round to another neighbor now and then, which is a fraction of what e4m3 itself changes."""
    fused, plain = painted(precision="fp8"), painted(precision="fp8", kernels="plain")
    assert (fused.ran["kernels"], plain.ran["kernels"]) == ("fused", "plain")
    assert decibels(fused, plain) >= 40
