"""How networks are executed: what an engine may be asked for, whatever the model and the backend."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["CAPTURE", "FP8", "KERNELS", "PRECISIONS", "STANDARD", "Capture", "Kernels", "Precision"]

Kernels = Literal["auto", "fused", "plain"]
"""Kernels of the networks. ``auto`` is what suits the device; ``fused`` are this project's own."""

Capture = Literal["auto", "on", "off"]
"""Whether steps are captured once and then replayed as a whole. ``auto`` is on where a device can do it."""

Precision = Literal["standard", "fp8"]
"""What networks compute in. ``standard`` is half precision on a GPU, float32 on a CPU; ``fp8`` has products in e4m3."""

KERNELS: tuple[Kernels, ...] = get_args(Kernels)
CAPTURE: tuple[Capture, ...] = get_args(Capture)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

STANDARD: Precision = "standard"
FP8: Precision = "fp8"
