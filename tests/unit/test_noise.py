"""Noise: one place, one stream per seed."""

from __future__ import annotations

import numpy as np
import pytest

import intarsia
from intarsia.engine.noise import MAX_SEED, NoiseStream


def test_it_is_numpys_philox_in_float32():
    expected = np.random.Generator(np.random.Philox(key=7)).standard_normal((4, 8, 8), dtype=np.float32)
    drawn = intarsia.noise(seed=7, shape=(4, 8, 8))
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, expected)


def test_a_stream_continues_and_seeds_differ():
    stream = NoiseStream(0)
    first, second = stream.draw((4, 8, 8)), stream.draw((4, 8, 8))
    np.testing.assert_array_equal(first, intarsia.noise(0, (4, 8, 8)))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, intarsia.noise(1, (4, 8, 8)))


def test_noise_has_mean_0_and_variance_1():
    drawn = intarsia.noise(3, (4, 128, 128)).astype(np.float64)
    # 65,536 draws: four standard errors of mean and variance
    assert abs(drawn.mean()) < 4 / 256
    assert abs(drawn.var() - 1) < 4 * np.sqrt(2) / 256


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, None])
def test_seeds_outside_64_bits_are_refused(seed):
    with pytest.raises(intarsia.RequestError, match="seed must be an integer between 0 and"):
        intarsia.noise(seed, (1,))
    assert intarsia.noise(MAX_SEED, (1,)).shape == (1,)
