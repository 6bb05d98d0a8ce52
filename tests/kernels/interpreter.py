"""Triton's interpreter, which runs kernels on a CPU.

Triton reads ``TRITON_INTERPRET`` as it is imported, so it is set before any test that launches a kernel is collected.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest

NEEDS_TRITON = "needs triton, which there is for Linux alone: pip install 'intarsia[dev]'"


def interpret_without_gpu() -> None:
    """Have Triton interpret kernels, if there is no GPU to compile them for."""
    try:
        import torch
    except ModuleNotFoundError:  # tests of kernels are skipped, with their reason
        return
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


def why_not_interpreted() -> str | None:
    """Why kernels cannot be interpreted here, or None."""
    if find_spec("triton") is None:
        return NEEDS_TRITON
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "kernels are compiled for the CUDA device that is here"
    return None


def why_not_compiled() -> str | None:
    """Why kernels cannot be compiled and run on a GPU here, or None."""
    import torch

    if not torch.cuda.is_available():
        return "needs a CUDA device; torch sees none"
    if find_spec("triton") is None:
        return "needs triton: pip install 'intarsia[cuda]'"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 is set: kernels would not be compiled"
    return None


def need_interpreter() -> None:
    """Skip the module where Triton cannot interpret."""
    pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
    reason = why_not_interpreted()
    if reason is not None:
        pytest.skip(reason, allow_module_level=True)


def round_e4m3_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter rounds 127 to 64 in e4m3, not to 128, and has no NaN there; torch converts instead."""
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    original = interpreter._convert_float

    def convert(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) != (tl.float32, tl.float8e4nv):
            return original(data, source, target, rounding)
        return torch.from_numpy(data.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", convert)
