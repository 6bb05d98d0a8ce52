"""Whether steps can be captured and replayed: tried on small lanes before anything depends on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from intarsia.backends.onnx.lane_buffers import LaneBuffers, LaneInputs, StepSessions
from intarsia.backends.onnx.state import matrices, scalars
from intarsia.errors import BackendError
from intarsia.schedulers import table

__all__ = ["check_replay"]

# Latents of small images, a prompt, and rows enough for each graph to be replayed after others were.
_SIDE, _OTHER_SIDE, _TOKENS, _STEPS = 16, 24, 77, 4
_IMAGE_TOKENS = 4
_SEEDS, _OTHER_SEED = (0, 1), 9
# Of the result's root mean square. The same kernels give the same bits; a replay of the wrong thing is another image.
_TOLERANCE = 0.01
# What a mean of squares is divided by at least.
_LEAST_SQUARE = 1e-12
_FIRST_GRAPH = 1 << 20  # beyond those of a pool


def check_replay(sessions: StepSessions, latent_channels: int) -> None:
    """Compare two captured lanes, replayed in turn, with the same two lanes launched alone.

    A graph reads the addresses it was captured with. Two lanes in turn, and a launched one of another size between
    them, show whether each still reads its own.

    Raises:
        BackendError: a replay that differs. What ONNX Runtime raises passes through.
    """
    launched = [_launched(sessions, latent_channels, seed) for seed in _SEEDS]
    replayed = _replayed(sessions, latent_channels)
    for expected, latents in zip(launched, replayed, strict=True):
        mean_square = max(float(np.mean(expected**2)), _LEAST_SQUARE)
        mean_square_error = np.mean((expected - latents) ** 2)
        error = float(np.sqrt(mean_square_error / mean_square))

        is_equal = np.array_equal(expected, latents, equal_nan=True)
        if not (error <= _TOLERANCE or is_equal):
            raise BackendError(f"captured steps do not give what launched ones do: they differ by {error:.3g} of it")


def _launched(sessions: StepSessions, channels: int, seed: int) -> np.ndarray:
    """Final latents of a lane that is launched alone, in float64."""
    inputs = _lane_inputs(sessions, channels, seed, _SIDE)
    buffers = LaneBuffers(sessions, inputs)
    for row in range(_STEPS):
        noise = _fresh_noise([row, seed], channels, _SIDE)
        buffers.advance(row, noise)
    return buffers.latents.astype(np.float64)


def _replayed(sessions: StepSessions, channels: int) -> list[np.ndarray]:
    """Final latents of captured lanes that take turns with each other and with a launched one, in float64."""
    inputs = {seed: _lane_inputs(sessions, channels, seed, _SIDE) for seed in _SEEDS}
    lanes = {}
    for seed in _SEEDS:
        lanes[seed] = LaneBuffers(sessions, inputs[seed], _FIRST_GRAPH + 2 * seed)
    for seed in _SEEDS:
        lanes[seed].capture(inputs[seed])

    other_inputs = _lane_inputs(sessions, channels, _OTHER_SEED, _OTHER_SIDE)
    other = LaneBuffers(sessions, other_inputs)
    for row in range(_STEPS):
        for seed in _SEEDS:
            noise = _fresh_noise([row, seed], channels, _SIDE)
            lanes[seed].advance(row, noise)
        other.advance(row, _fresh_noise([row], channels, _OTHER_SIDE))
    return [lanes[seed].latents.astype(np.float64) for seed in _SEEDS]


def _fresh_noise(seed: Sequence[int], channels: int, side: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((channels, side, side), np.float32)


def _lane_inputs(sessions: StepSessions, channels: int, seed: int, side: int) -> LaneInputs:
    """Random numbers for every input; shapes are those of the network's inputs, and free ones small."""
    shapes = {value.name: value.shape for value in sessions.network.get_inputs()}
    generator = np.random.default_rng(seed)

    def field(count: int) -> np.ndarray:
        return generator.standard_normal((count, side, side), np.float32)

    steps = table("UniPCMultistepScheduler", _STEPS)  # keeps several of the network's outputs
    noise = field(channels)
    image_latents = field(channels)
    state = np.zeros((steps.state_slots, *noise.shape), np.float32)
    state[0] = image_latents
    step_inputs = {
        "state": state,
        "noise": noise,
        "matrices": matrices(steps),
        "scalars": scalars(steps, 2.0, keeps_known=True),
        "clean": image_latents,
        "start": noise.copy(),
        "mask": (field(1) > 0).astype(np.float32),
        "extra": field(shapes["sample"][1] - channels),
    }

    _, branches, width = shapes["embeddings"]
    branches = 1 if branches == 1 else 2  # one time embedding may serve both
    embeddings = np.zeros((len(steps) + 1, branches, width), np.float32)

    kv_width = shapes["context"][2]
    cross_kv = generator.standard_normal((2, _TOKENS, kv_width), np.float32) * 0.1
    network_inputs = {"embeddings": embeddings}
    if "image_context" in shapes:
        network_inputs["image_context"] = generator.standard_normal((2, _IMAGE_TOKENS, kv_width), np.float32) * 0.1
    return LaneInputs(sessions.device.put(cross_kv), network_inputs, step_inputs)
