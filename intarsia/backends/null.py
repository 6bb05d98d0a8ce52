"""The null backend: deterministic, weightless, instant.

It implements the protocol and no more, so that the command line, batches and servers can be tested without a model.
Images are a flat color that depends on the prompts, on the names of the model's files, on its precision and on the
starting noise. The masks and the paste-back are the real ones.

``INTARSIA_NULL_STEP_SECONDS`` makes each evaluation take that long, so that clients and servers meet requests that
queue and run, as with a network.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from intarsia.backends.device_names import check_device_name
from intarsia.backends.protocol import Inputs, ModelFiles, Runtime, Shares, Snapshot, Step
from intarsia.errors import BackendError, shown
from intarsia.execution import STANDARD, Execution
from intarsia.schedulers import Table

__all__ = ["NullBackend", "NullChecker", "NullSession"]

# Levels by which mean red and mean blue must both exceed mean green for an image to be flagged.
_PURPLE = 32


@dataclass(frozen=True, eq=False)
class _State:
    inputs: Inputs
    color: np.ndarray


class NullSession:
    """A session without a network."""

    def __init__(self, files: ModelFiles) -> None:
        self.files = files
        self._step_seconds = _step_seconds()
        self.runtime = Runtime(
            backend="null", device="cpu", dtype="uint8", deterministic=True, precision=files.precision
        )

    def encode(self, inputs: Inputs) -> tuple[Inputs, tuple[str, ...]]:
        return inputs, ()

    def start(self, conditioning: Inputs, table: Table, noise: np.ndarray) -> _State:
        text = f"{conditioning.prompt}\0{conditioning.negative_prompt}\0{table.name}\0{len(table.timesteps)}"
        text += self._parts(conditioning)
        digest = hashlib.sha256(text.encode() + noise.tobytes()).digest()
        return _State(conditioning, np.array(_color(digest), np.uint8))

    def _parts(self, inputs: Inputs) -> str:
        """Stands for the weights of VAE, LoRAs, embeddings and IP adapter, and for their precision."""
        files = self.files
        parts = [f"lora {path.name} {strength}" for path, strength in files.loras]
        if files.vae_folder is not None:
            parts.append(f"vae {files.vae_folder.name}")
        if files.ip_adapter is not None and inputs.image_prompt is not None:
            digest = hashlib.sha256(inputs.image_prompt.tobytes()).hexdigest()
            parts.append(f"ip {files.ip_adapter.name} {inputs.image_scale} {digest}")
        parts += [f"embedding {embedding.path.name}" for embedding in inputs.embeddings]
        if files.precision != STANDARD:
            parts.append(f"precision {files.precision}")
        return "\0".join(parts)

    def advance(self, steps: Sequence[Step]) -> None:
        """Nothing to compute; it takes as long as the environment asks for."""
        if self._step_seconds:
            time.sleep(self._step_seconds)

    def decode(self, states: Sequence[_State]) -> list[np.ndarray]:
        images = [state.inputs.image.copy() for state in states]
        for image, state in zip(images, states, strict=True):
            if state.inputs.soft_mask is not None:
                _mix(image, state.color, state.inputs.soft_mask)
                continue
            for channel, level in enumerate(state.color):  # several times faster than all three at once
                image[:, :, channel][state.inputs.mask] = level
        return images

    def snapshot(self, state: _State, shares: Shares) -> Snapshot:
        """The color of the finished image, whatever the row."""
        height, width = state.inputs.latent_mask.shape
        colors = np.empty((3, height, width), np.float32)
        colors[:] = state.color[:, None, None] / np.float32(255)
        return lambda: colors

    def close(self) -> None:
        """Nothing to release."""


def _mix(image: np.ndarray, color: np.ndarray, levels: np.ndarray) -> None:
    """The color over an image by the levels of a soft mask, in place: what is gray keeps some of the image."""
    factor = image.shape[0] // levels.shape[0]
    shares = levels.repeat(factor, axis=0).repeat(factor, axis=1)[:, :, None]
    image[:] = np.rint(image + shares * (color.astype(np.float32) - image))


def _color(digest: bytes) -> tuple[int, int, int]:
    """A color that the null backend's own checker does not flag: what it draws stands for a harmless image."""
    red, green, blue = digest[:3]
    return (green, red, blue) if min(red, blue) >= green + _PURPLE else (red, green, blue)


def _step_seconds() -> float:
    text = os.environ.get("INTARSIA_NULL_STEP_SECONDS", "")
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 60:
        raise BackendError(f"INTARSIA_NULL_STEP_SECONDS must be between 0 and 60, not {shown(text)}")
    return seconds


class NullChecker:
    """Flags images that are purple on the whole: mean red and mean blue at least 32 levels above mean green."""

    def check(self, images: Sequence[np.ndarray]) -> list[bool]:
        return [_is_purple(image) for image in images]

    def close(self) -> None:
        """Nothing to release."""


def _is_purple(image: np.ndarray) -> bool:
    red, green, blue = image.reshape(-1, 3).mean(axis=0)
    return bool(min(red, blue) >= green + _PURPLE)


class NullBackend:
    """Opens :class:`NullSession` and :class:`NullChecker`; only on the CPU."""

    slots = 8

    def __init__(self, device: str, execution: Execution) -> None:
        check_device_name(device, "null")
        if device not in ("auto", "cpu"):
            raise BackendError(f"device must be auto or cpu for the null backend, not {device!r}")
        self.device = "cpu"
        self._execution = execution

    def open(self, files: ModelFiles) -> NullSession:
        if self._execution.kernels == "fused":
            raise BackendError("the null backend has no fused kernels; ask for auto or plain")
        if self._execution.capture == "on":
            raise BackendError("the null backend has no steps to capture; capture must be auto or off")
        return NullSession(files)

    def open_checker(self, folder: Path) -> NullChecker:
        return NullChecker()
