"""What ``auto`` means on a CPU where ONNX Runtime is installed: it, for every model that it can run, else torch."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.backends.protocol import Backend, Checker, Opening, Session

if TYPE_CHECKING:
    from intarsia.backends.onnx.session import OnnxBackend

__all__ = ["CpuBackend"]


class CpuBackend:
    """Opens with ONNX Runtime what it has graphs for, and leaves the rest to torch where that is installed.

    Without torch, ONNX Runtime's own error says what is missing. Which of them ran is in every result, and where it is
    torch, why.
    """

    def __init__(self, onnx: Backend, deterministic: bool | None) -> None:
        self._onnx: OnnxBackend = onnx  # type: ignore[assignment]
        self._deterministic = deterministic
        self._torch: Backend | None = None
        self.device, self.slots = onnx.device, onnx.slots

    def open(self, opening: Opening) -> Session:
        """Load a model."""
        reason = self._onnx.why_not(opening)
        torch = self._other() if reason else None
        if torch is None:
            return self._onnx.open(opening)
        return torch.open(replace(opening, reason=reason))

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

            self._torch = TorchBackend("cpu", self._deterministic)
        return self._torch
