"""What the tests of kernels in this folder need, or the reason why they are skipped."""

from __future__ import annotations

import os

import pytest


def need_interpreter() -> None:
    """Skip the module where Triton cannot interpret."""
    pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
    pytest.importorskip("triton", reason="needs triton, which there is for Linux alone: pip install 'intarsia[dev]'")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("a CUDA device is here: tests/gpu runs the same tests on it", allow_module_level=True)
