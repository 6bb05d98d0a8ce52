"""Which backend a name means on which device, and what ``auto`` chooses."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.backends.driver import gpu_count
from intarsia.backends.protocol import Backend, Checker, ModelFiles, Session
from intarsia.errors import BackendError
from intarsia.execution import Execution

if TYPE_CHECKING:
    from intarsia.backends.onnx.backend import OnnxBackend

__all__ = ["BACKENDS", "CpuBackend", "choose"]

BACKENDS = {
    "torch": "intarsia.backends.torch.backend:TorchBackend",
    "onnx": "intarsia.backends.onnx.backend:OnnxBackend",
    "null": "intarsia.backends.null:NullBackend",
}


def choose(backend: str, device: str, execution: Execution) -> Backend:
    """The backend that the names mean, on its device. ``auto`` is the only thing that may choose.

    Raises:
        BackendError: an unknown name, a package that is missing, a device that is not there.
    """
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|(cuda|tensorrt)(:\d+)?", device):
        raise BackendError(f"device must be auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N, not {device!r}")
    if backend == "auto":
        return _automatic(device, execution)
    if backend not in BACKENDS:
        raise BackendError(f"backend must be one of auto, {', '.join(sorted(BACKENDS))}, not {backend!r}")
    if device.startswith("tensorrt") and backend != "onnx":
        raise BackendError(f"device {device} is of backend onnx, not of {backend}")
    return _load(backend)(device, execution)


def _automatic(device: str, execution: Execution) -> Backend:
    """CUDA with torch where there is a GPU, else ONNX Runtime where it is installed, else torch on the CPU."""
    torch, onnx = (find_spec(package) is not None for package in ("torch", "onnxruntime"))
    if not torch and not onnx:
        raise BackendError("no backend is installed: pip install 'intarsia[cpu]' or 'intarsia[torch]'")
    if device.startswith("tensorrt") or not torch:
        return _load("onnx")(device, execution)
    if device.startswith("cuda") or not onnx or (device == "auto" and _torch_has_gpu()):
        return _load("torch")(device, execution)
    return CpuBackend(_load("onnx")("cpu", execution), execution)


def _torch_has_gpu() -> bool:
    """Whether there is one that the installed torch can use; without a GPU torch is not imported."""
    if not gpu_count():
        return False
    import torch

    return torch.cuda.is_available()


def _load(name: str) -> type[Backend]:
    """Import a backend; a package that is missing is named with the extra that brings it."""
    module, _, attribute = BACKENDS[name].partition(":")
    try:
        kind: type[Backend] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        extra = {"onnx": "cpu"}.get(name, name)
        raise BackendError(
            f"backend {name} needs the package {exc.name}, which is not installed: pip install 'intarsia[{extra}]'"
        ) from exc
    return kind


class CpuBackend:
    """Opens with ONNX Runtime what it has graphs for, and leaves the rest to torch where that is installed.

    Without torch, ONNX Runtime's own error says what is missing. Which of them ran is in every result, and where it is
    torch, why.
    """

    def __init__(self, onnx: Backend, execution: Execution) -> None:
        self._onnx: OnnxBackend = onnx  # type: ignore[assignment]
        self._execution = execution
        self._torch: Backend | None = None
        self.device, self.slots = onnx.device, onnx.slots

    def open(self, files: ModelFiles) -> Session:
        """Load a model."""
        reason = self._onnx.why_not(files)
        torch = self._other() if reason else None
        if torch is None:
            return self._onnx.open(files)
        return torch.open(replace(files, reason=reason))

    def open_checker(self, folder: Path) -> Checker:
        """Load a safety checker."""
        other = None if self._onnx.checks(folder) else self._other()
        return (other or self._onnx).open_checker(folder)

    def _other(self) -> Backend | None:
        """torch; None where it is not installed."""
        if find_spec("torch") is None:
            return None
        if self._torch is None:
            from intarsia.backends.torch.backend import TorchBackend

            self._torch = TorchBackend("cpu", self._execution)
        return self._torch
