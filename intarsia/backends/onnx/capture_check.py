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
_SEEDS, _OTHER_SEED = (0, 1), 9
# Of the result's root mean square. The same kernels give the same bits; a replay of the wrong thing is another image.
_TOLERANCE = 0.01
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
        scale = max(float(np.mean(expected**2)), 1e-12)
        error = float(np.sqrt(np.mean((expected - latents) ** 2) / scale))
        if not (error <= _TOLERANCE or np.array_equal(expected, latents, equal_nan=True)):
            raise BackendError(f"captured steps do not give what launched ones do: they differ by {error:.3g} of it")


def _launched(sessions: StepSessions, channels: int, seed: int) -> np.ndarray:
    """Final latents of a lane that is launched alone, in float64."""
    buffers = LaneBuffers(sessions, _lane_inputs(sessions, channels, seed, _SIDE))
    for row in range(_STEPS):
        buffers.advance(row, _fresh_noise([row, seed], channels, _SIDE))
    return buffers.latents.astype(np.float64)


def _replayed(sessions: StepSessions, channels: int) -> list[np.ndarray]:
    """Final latents of captured lanes that take turns with each other and with a launched one, in float64."""
    inputs = [_lane_inputs(sessions, channels, seed, _SIDE) for seed in _SEEDS]
    lanes = []
    for seed, lane_inputs in zip(_SEEDS, inputs, strict=True):
        lanes.append(LaneBuffers(sessions, lane_inputs, _FIRST_GRAPH + 2 * seed))
    for buffers, lane_inputs in zip(lanes, inputs, strict=True):
        buffers.capture(lane_inputs)
    other = LaneBuffers(sessions, _lane_inputs(sessions, channels, _OTHER_SEED, _OTHER_SIDE))

    for row in range(_STEPS):
        for seed, buffers in zip(_SEEDS, lanes, strict=True):
            buffers.advance(row, _fresh_noise([row, seed], channels, _SIDE))
        other.advance(row, _fresh_noise([row], channels, _OTHER_SIDE))
    return [buffers.latents.astype(np.float64) for buffers in lanes]


def _fresh_noise(seed: Sequence[int], channels: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((channels, side, side), np.float32)


def _lane_inputs(sessions: StepSessions, channels: int, seed: int, side: int) -> LaneInputs:
    """Random numbers for every input; shapes are those of the network's inputs, and free ones small."""
    shapes = {value.name: value.shape for value in sessions.network.get_inputs()}
    generator = np.random.default_rng(seed)

    def field(count: int) -> np.ndarray:
        return generator.standard_normal((count, side, side), np.float32)

    steps = table("UniPCMultistepScheduler", _STEPS)  # keeps several of the network's outputs
    noise, image_latents = field(channels), field(channels)
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

    branches = 1 if shapes["embeddings"][1] == 1 else 2  # one time embedding may serve both
    embeddings = np.zeros((len(steps) + 1, branches, shapes["embeddings"][2]), np.float32)
    cross_kv = generator.standard_normal((2, _TOKENS, shapes["context"][2]), np.float32) * 0.1
    return LaneInputs(sessions.device.put(cross_kv), {"embeddings": embeddings}, step_inputs)
