"""How networks are executed: what an engine may be asked for, whatever the model and the backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from intarsia.errors import BackendError
from intarsia.memory_size import read_memory

__all__ = ["CAPTURE", "FP8", "KERNELS", "PRECISIONS", "STANDARD", "Capture", "Execution", "Kernels", "Precision"]

Kernels = Literal["auto", "fused", "plain"]
"""Kernels of the networks. ``auto`` is what suits the device; ``fused`` are this project's own."""

Capture = Literal["auto", "on", "off"]
"""Whether steps are captured once and then replayed as a whole. ``auto`` is on where a device can do it."""

Precision = Literal["standard", "fp8"]
"""What networks compute in. ``standard`` is half precision on a GPU, float32 on a CPU; ``fp8`` has products in e4m3."""

Choice = TypeVar("Choice", bound=str)

KERNELS: tuple[Kernels, ...] = get_args(Kernels)
CAPTURE: tuple[Capture, ...] = get_args(Capture)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

STANDARD: Precision = "standard"
FP8: Precision = "fp8"


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How an engine runs all of its models.

    Attributes:
        deterministic: True makes an image's bits independent of the lanes that it is batched with; None lets the
            backend decide.
        kernels: a backend that has no fused ones refuses ``fused``.
        capture: a backend or device that cannot capture refuses ``on``.
        memory: bytes of the device that it may take; None is all that the device has.

    Raises:
        BackendError: no such kernels or capture, or no amount of memory.
    """

    deterministic: bool | None = None
    kernels: Kernels = "auto"
    capture: Capture = "auto"
    memory: int | None = None

    def __post_init__(self) -> None:
        _choice("kernels", self.kernels, KERNELS)
        _choice("capture", self.capture, CAPTURE)
        read_memory(self.memory)

    @classmethod
    def named(
        cls, kernels: str, capture: str, *, deterministic: bool | None = None, memory: int | str | None = None
    ) -> Execution:
        """From texts, as they come from a command line or a file."""
        return cls(
            deterministic=deterministic,
            kernels=_choice("kernels", kernels, KERNELS),
            capture=_choice("capture", capture, CAPTURE),
            memory=read_memory(memory),
        )


def _choice(option: str, value: str, allowed: tuple[Choice, ...]) -> Choice:
    """The allowed one that ``value`` names."""
    for choice in allowed:
        if choice == value:
            return choice
    raise BackendError(f"{option} must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {value!r}")
