"""The null backend: deterministic, weightless, instant.

It keeps the protocol and no more: pictures are a flat colour that depends on the prompts, on the parts put
into the model (by name), on its precision and on the starting noise, so that the command line, batches and servers can
be tested without a model. The masks and the paste-back are the real ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from intarsia.backends.protocol import Inputs, ModelFiles, Runtime, Step
from intarsia.errors import BackendError
from intarsia.execution import STANDARD, Execution
from intarsia.schedulers import Table

__all__ = ["NullBackend", "NullChecker", "NullSession"]

# By how much red and blue must both exceed green, on average, for a picture to be flagged.
_PURPLE = 32


@dataclass(frozen=True, eq=False)
class _State:
    inputs: Inputs
    colour: np.ndarray


class NullSession:
    """A session without a network."""

    def __init__(self, files: ModelFiles) -> None:
        self.files = files
        self.runtime = Runtime("null", "cpu", "uint8", deterministic=True, precision=files.precision)

    def encode(self, inputs: Inputs) -> tuple[Inputs, tuple[str, ...]]:
        return inputs, ()

    def start(self, conditioning: Inputs, table: Table, noise: np.ndarray) -> _State:
        text = f"{conditioning.prompt}\0{conditioning.negative_prompt}\0{table.name}\0{len(table.timesteps)}"
        digest = hashlib.sha256((text + self._parts(conditioning)).encode() + noise.tobytes()).digest()
        return _State(conditioning, np.frombuffer(digest[:3], np.uint8))

    def _parts(self, inputs: Inputs) -> str:
        """What stands in for the weights of VAE, LoRAs and IP adapter, and for what they are held in."""
        files = self.files
        parts = [f"lora {path.name} {strength}" for path, strength in files.loras]
        if files.vae_folder is not None:
            parts.append(f"vae {files.vae_folder.name}")
        if files.ip_adapter is not None and inputs.image_prompt is not None:
            picture = hashlib.sha256(inputs.image_prompt.tobytes()).hexdigest()
            parts.append(f"ip {files.ip_adapter.name} {inputs.image_scale} {picture}")
        if files.precision != STANDARD:
            parts.append(f"precision {files.precision}")
        return "\0".join(parts)

    def advance(self, steps: Sequence[Step]) -> None:
        """Nothing to compute."""

    def decode(self, states: Sequence[_State]) -> list[np.ndarray]:
        pictures = [state.inputs.image.copy() for state in states]
        for picture, state in zip(pictures, states, strict=True):
            for channel, level in enumerate(state.colour):  # several times faster than all three at once
                picture[:, :, channel][state.inputs.mask] = level
        return pictures

    def close(self) -> None:
        """Nothing to release."""


class NullChecker:
    """Flags pictures that are purple on the whole: mean red and mean blue at least 32 levels above mean green."""

    def check(self, pictures: Sequence[np.ndarray]) -> list[bool]:
        means = (picture.reshape(-1, 3).mean(axis=0) for picture in pictures)
        return [bool(min(red, blue) >= green + _PURPLE) for red, green, blue in means]

    def close(self) -> None:
        """Nothing to release."""


class NullBackend:
    """Opens :class:`NullSession` and :class:`NullChecker`; only on the CPU."""

    slots = 8

    def __init__(self, device: str, execution: Execution) -> None:
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
