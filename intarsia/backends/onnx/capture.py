"""Whether a loop's steps can be recorded and replayed, found out on a small lane before anything depends on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from intarsia.backends.onnx.buffers import Buffers, Given, Loop
from intarsia.backends.onnx.state import matrices, scalars
from intarsia.errors import BackendError
from intarsia.schedulers import table

__all__ = ["prove"]

# Latents of small pictures, a prompt, and rows enough for each graph to be replayed after others were.
_SIDES, _TOKENS, _STEPS = (16, 24), 77, 4
# Of the result's root mean square. The same kernels give the same bits; a replay of the wrong thing is another picture.
_MOST = 0.01
_NUMBER = 1 << 20  # beyond those of a pool


def prove(loop: Loop, latent_channels: int) -> None:
    """Replay two lanes in turns, with a launched one of another size between, and compare with both launched alone.

    What a graph reads is what it was recorded with: lanes of their own show whether that is still theirs.

    Raises:
        BackendError: a recording that does not do what it recorded. What ONNX Runtime raises passes through.
    """
    expected = [_run(loop, latent_channels, [seed])[0] for seed in range(2)]
    for one, other in zip(expected, _run(loop, latent_channels, range(2), recorded=True), strict=True):
        error = float(np.sqrt(np.mean((one - other) ** 2) / max(float(np.mean(one**2)), 1e-12)))
        if not (error <= _MOST or np.array_equal(one, other, equal_nan=True)):
            raise BackendError(f"captured steps do not give what launched ones do: they differ by {error:.3g} of it")


def _run(loop: Loop, channels: int, seeds: Sequence[int], *, recorded: bool = False) -> list[np.ndarray]:
    """Latents of a lane for each seed, in float64; recorded ones have company."""
    lanes = []
    for seed in seeds:
        given = _lane(loop, channels, seed, _SIDES[0])
        lanes.append(Buffers(loop, given, _NUMBER + 2 * seed if recorded else None))
    if recorded:
        for seed, buffers in zip(seeds, lanes, strict=True):
            buffers.record(_lane(loop, channels, seed, _SIDES[0]))
        lanes.append(Buffers(loop, _lane(loop, channels, 9, _SIDES[1])))
    for row in range(_STEPS):
        for number, buffers in enumerate(lanes):
            side = _SIDES[number == len(seeds)]
            fresh = np.random.default_rng([row, *seeds[number : number + 1]])
            buffers.advance(row, fresh.standard_normal((channels, side, side), np.float32))
    return [buffers.latents.astype(np.float64) for buffers in lanes[: len(seeds)]]


def _lane(loop: Loop, channels: int, seed: int, side: int) -> Given:
    """Noise in the place of everything; shapes are what the network's inputs say, and free ones small."""
    shapes = {each.name: each.shape for each in loop.network.get_inputs()}
    generator = np.random.default_rng(seed)

    def field(count: int) -> np.ndarray:
        return generator.standard_normal((count, side, side), np.float32)

    made = table("UniPCMultistepScheduler", _STEPS)  # keeps several of the network's outputs
    alike = shapes["embeddings"][1] == 1  # one time embedding for both halves
    noise, clean = field(channels), field(channels)
    state = np.zeros((made.state_slots, *noise.shape), np.float32)
    state[0] = clean
    arrays = {
        "state": state,
        "noise": noise,
        "matrices": matrices(made),
        "scalars": scalars(made, 2.0, keeps_known=True),
        "clean": clean,
        "start": noise.copy(),
        "mask": (field(1) > 0).astype(np.float32),
        "extra": field(shapes["sample"][1] - channels),
    }
    embeddings = np.zeros((len(made) + 1, 1 if alike else 2, shapes["embeddings"][2]), np.float32)
    context = generator.standard_normal((2, _TOKENS, shapes["context"][2]), np.float32) * 0.1
    return Given(loop.device.put(context), {"embeddings": embeddings}, arrays)
