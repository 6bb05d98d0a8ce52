"""Which backend a name means on which device, what ``auto`` chooses, and backends from outside the package."""

from __future__ import annotations

import importlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.backends.device_names import check_device_name
from intarsia.backends.driver import gpu_count
from intarsia.backends.protocol import Backend, Checker, ModelFiles, Session
from intarsia.errors import BackendError
from intarsia.execution import Execution
from intarsia.extensions import Extensions
from intarsia.spinning import limit_spinning

if TYPE_CHECKING:
    from intarsia.backends.onnx.backend import OnnxBackend

__all__ = ["BACKENDS", "CpuBackend", "backend_names", "choose", "register_backend"]

BACKENDS = {
    "torch": "intarsia.backends.torch.backend:TorchBackend",
    "onnx": "intarsia.backends.onnx.backend:OnnxBackend",
    "null": "intarsia.backends.null:NullBackend",
}
"""The package's own, each imported when it is asked for."""

_OUTSIDE = Extensions(
    "intarsia.backends",
    "backend",
    taken=lambda: ("auto", *BACKENDS),
    error=lambda name, sentence: BackendError(sentence),
)


def register_backend(name: str, backend: type[Backend] | str) -> None:
    """Make a backend from outside the package known in this process.

    An installed distribution needs no call: an entry point of the group ``intarsia.backends`` that names a class is
    found in every process.

    Args:
        backend: a class (:class:`intarsia.backends.protocol.Backend`), or ``module:attribute``, imported when it is
            asked for.

    Raises:
        BackendError: not a backend, or a name that is taken.
    """
    if not isinstance(backend, str):
        _check_backend(name, backend)
    _OUTSIDE.register(name, backend)


def backend_names() -> tuple[str, ...]:
    """All names that ``choose`` takes, but for ``auto``; nothing is imported."""
    return tuple(sorted((*BACKENDS, *_OUTSIDE.names())))


def choose(backend: str, device: str, execution: Execution) -> Backend:
    """Make the named backend on its device. Only ``auto`` makes a choice.

    Raises:
        BackendError: an unknown name, a package that is missing, a device that is not there.
    """
    limit_spinning()
    if backend == "auto":
        check_device_name(device, "auto")
        return _automatic(device, execution)
    kind = _load(backend) if backend in BACKENDS else _load_outside(backend)
    return kind(device, execution)


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


def _load_outside(name: str) -> type[Backend]:
    """A backend from outside the package; the sentence about an unknown name lists these too."""
    backend = _OUTSIDE.load(name) if isinstance(name, str) else None
    if backend is None:
        raise BackendError(f"backend must be one of auto, {', '.join(backend_names())}, not {name!r}")
    return _check_backend(name, backend)


def _check_backend(name: str, backend: object) -> type[Backend]:
    """``backend`` if it is a class with a backend's methods."""
    missing = [method for method in ("open", "open_checker") if not callable(getattr(backend, method, None))]
    if isinstance(backend, type) and not missing:
        return backend

    found = f"{backend.__name__} without {' and '.join(missing)}" if isinstance(backend, type) else repr(backend)
    raise BackendError(f"backend {name}{_OUTSIDE.origin(name)} must be a class with open and open_checker, not {found}")


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
