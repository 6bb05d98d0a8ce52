"""Whether a loop's steps can be recorded and replayed, found out on a small lane before anything depends on it."""

from __future__ import annotations

import numpy as np

from inlay.backends.onnx.buffers import Buffers, Given, Loop
from inlay.backends.onnx.state import matrices, scalars
from inlay.errors import BackendError
from inlay.schedulers import table

__all__ = ["prove"]

# Latents of a small picture, a prompt, and rows enough for each of the two graphs to be recorded and replayed.
_SIDE, _TOKENS, _STEPS = 16, 77, 5
# Of the result's root mean square. The same kernels give the same bits; a replay of the wrong thing is another picture.
_MOST = 0.01
_NUMBER = 1 << 20  # beyond those of a pool


def prove(loop: Loop, latent_channels: int) -> None:
    """Run one lane twice, launched and recorded, and compare.

    Raises:
        BackendError: a recording that does not do what it recorded. What ONNX Runtime raises passes through.
    """
    found = []
    for number in (None, _NUMBER):
        given = _lane(loop, latent_channels)  # anew: where device and host are one, a lane writes into it
        fresh = given.arrays["noise"].copy()
        buffers = Buffers(loop, given, number)
        for row in range(_STEPS):
            buffers.advance(row, fresh * (row + 1))
        found.append(buffers.latents)
    launched, replayed = found
    error = float(np.sqrt(np.mean((launched - replayed) ** 2) / max(float(np.mean(launched**2)), 1e-12)))
    if not (error <= _MOST or np.array_equal(launched, replayed, equal_nan=True)):
        raise BackendError(f"captured steps do not give what launched ones do: they differ by {error:.3g} of its size")


def _lane(loop: Loop, channels: int) -> Given:
    """Noise in the place of everything; its shapes are what the network's inputs say, and free ones small."""
    shapes = {each.name: each.shape for each in loop.network.get_inputs()}
    noise = np.random.default_rng(0).standard_normal((channels, _SIDE, _SIDE), np.float32)
    made = table("EulerAncestralDiscreteScheduler", _STEPS)
    state = np.zeros((made.slots, *noise.shape), np.float32)
    state[0] = noise
    mask = np.ones((1, _SIDE, _SIDE), np.float32)
    extra = np.zeros((shapes["sample"][1] - channels, _SIDE, _SIDE), np.float32)
    alike = shapes["embeddings"][1] == 1  # one time embedding for both halves
    embeddings = np.zeros((len(made) + 1, 1 if alike else 2, shapes["embeddings"][2]), np.float32)
    arrays = {
        "state": state,
        "noise": noise.copy(),
        "matrices": matrices(made),
        "scalars": scalars(made, 2.0, keeps_known=False),
        "clean": noise,
        "start": noise,
        "mask": mask,
        "extra": extra,
    }
    context = loop.device.put(np.full((2, _TOKENS, shapes["context"][2]), 0.1, np.float32))
    return Given(context, {"embeddings": embeddings}, arrays)
