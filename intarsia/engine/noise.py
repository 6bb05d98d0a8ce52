"""Seeded noise: drawn on the CPU in float32, the same for every backend, device and batch.

One image, one :class:`NoiseStream`. A stream first gives the starting noise and then the fresh noise of
each stochastic row, in row order, so an image's noise depends on its seed and its table alone.
"""

from __future__ import annotations

import operator

import numpy as np

from intarsia.errors import RequestError

__all__ = ["MAX_SEED", "NoiseStream", "noise"]

MAX_SEED = 2**64 - 1


class NoiseStream:
    """Standard normal draws of one seed, in order.

    Args:
        seed: 0 … 2**64 - 1; keys a Philox counter generator (Salmon et al. 2011, "Parallel random
            numbers: as easy as 1, 2, 3"), whose stream numpy keeps stable across platforms.
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise RequestError("seed", seed, f"an integer between 0 and {MAX_SEED}")
        self._generator = np.random.Generator(np.random.Philox(key=seed))

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """The next unit-variance noise of that shape, float32."""
        return self._generator.standard_normal(shape, dtype=np.float32)


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The starting noise of a seed, as every backend uses it.

    Args:
        seed: the image's own seed (image *i* of a request has ``seed + i``).
        shape: latents of one image, ``(channels, height / 8, width / 8)``.

    Returns:
        float32 array of that shape, unit variance.

    Raises:
        RequestError: a seed or a shape that cannot be one.
    """
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        sizes = (-1,)
    if min(sizes, default=0) < 0:
        raise RequestError("shape", shape, "integers of at least 0, as in (4, 64, 64)")
    return NoiseStream(seed).draw(sizes)
