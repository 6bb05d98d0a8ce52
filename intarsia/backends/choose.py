"""The backends by name, and the choice that ``auto`` makes."""

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
    """Make the named backend on its device. Only ``auto`` makes a choice.

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
    has_torch, has_onnx = find_spec("torch") is not None, find_spec("onnxruntime") is not None
    if not has_torch and not has_onnx:
        raise BackendError("no backend is installed: pip install 'intarsia[cpu]' or 'intarsia[torch]'")

    if device.startswith("tensorrt") or not has_torch:
        return _load("onnx")(device, execution)
    if device.startswith("cuda") or not has_onnx or (device == "auto" and _torch_has_gpu()):
        return _load("torch")(device, execution)
    return CpuBackend(_load("onnx")("cpu", execution), execution)


def _torch_has_gpu() -> bool:
    """Whether the installed torch can use a GPU of this machine; without a GPU torch is not imported."""
    if not gpu_count():
        return False
    import torch

    return torch.cuda.is_available()


def _load(name: str) -> type[Backend]:
    """Import a backend; the error for a missing package names the extra that installs it."""
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
    """ONNX Runtime for the models that it has graphs for, torch for all others if it is installed.

    Without torch, ONNX Runtime's own error says what is missing. Each result has the backend that ran, and the reason
    if it was torch.
    """

    def __init__(self, onnx: Backend, execution: Execution) -> None:
        self._onnx: OnnxBackend = onnx  # type: ignore[assignment]
        self._execution = execution
        self._torch: Backend | None = None
        self.device, self.slots = onnx.device, onnx.slots

    def open(self, files: ModelFiles) -> Session:
        """Load a model."""
        reason = self._onnx.why_not(files)
        torch = self._torch_backend() if reason else None
        if torch is None:
            return self._onnx.open(files)
        return torch.open(replace(files, reason=reason))

    def open_checker(self, folder: Path) -> Checker:
        """Load a safety checker."""
        backend = None if self._onnx.checks(folder) else self._torch_backend()
        return (backend or self._onnx).open_checker(folder)

    def _torch_backend(self) -> Backend | None:
        """Made when it is first needed; None where torch is not installed."""
        if find_spec("torch") is None:
            return None
        if self._torch is None:
            from intarsia.backends.torch.backend import TorchBackend

            self._torch = TorchBackend("cpu", self._execution)
        return self._torch
