"""The null backend: deterministic, weightless, instant.

It keeps the protocol and no more: pictures are a flat colour that depends on the prompts and on the
starting noise, so that the command line, batches and servers can be tested without a model. The masks and
the paste-back are the real ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inlay.backends.protocol import Inputs, Opening, Runtime, Step
from inlay.errors import BackendError
from inlay.schedulers import Table

__all__ = ["NullBackend", "NullSession"]


@dataclass(frozen=True, eq=False)
class _State:
    inputs: Inputs
    colour: np.ndarray


class NullSession:
    """A session without a network."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.runtime = Runtime("null", "cpu", "uint8", deterministic=True)

    def encode(self, inputs: Inputs) -> tuple[Inputs, tuple[str, ...]]:
        return inputs, ()

    def start(self, conditioning: Inputs, table: Table, noise: np.ndarray) -> _State:
        text = f"{conditioning.prompt}\0{conditioning.negative_prompt}\0{table.name}\0{len(table.timesteps)}"
        digest = hashlib.sha256(text.encode() + noise.tobytes()).digest()
        return _State(conditioning, np.frombuffer(digest[:3], np.uint8))

    def advance(self, steps: Sequence[Step]) -> None:
        """Nothing to compute."""

    def decode(self, states: Sequence[_State]) -> list[np.ndarray]:
        return [np.where(s.inputs.mask[..., None], s.colour, s.inputs.image) for s in states]

    def close(self) -> None:
        """Nothing to release."""


class NullBackend:
    """Opens :class:`NullSession`; only on the CPU."""

    slots = 8

    def __init__(self, device: str, deterministic: bool | None) -> None:
        if device not in ("auto", "cpu"):
            raise BackendError(f"device must be auto or cpu for the null backend, not {device!r}")
        self.device = "cpu"

    def open(self, opening: Opening) -> NullSession:
        return NullSession(opening)
