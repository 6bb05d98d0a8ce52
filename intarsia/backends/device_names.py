"""How devices of the package's own backends are spelled. A backend from outside may have devices of its own."""

from __future__ import annotations

import re

from intarsia.errors import BackendError

__all__ = ["check_device_name"]

_SPELLING = re.compile(r"auto|cpu|(cuda|tensorrt)(:\d+)?")


def check_device_name(device: object, backend: str) -> None:
    """Raise :class:`BackendError` unless ``device`` is spelled as a device of ``backend``; nothing is looked for."""
    if not isinstance(device, str) or not _SPELLING.fullmatch(device):
        raise BackendError(f"device must be auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N, not {device!r}")
    if device.startswith("tensorrt") and backend not in ("auto", "onnx"):
        raise BackendError(f"device {device} is of backend onnx, not of {backend}")
