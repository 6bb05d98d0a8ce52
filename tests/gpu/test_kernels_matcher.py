"""tests/kernels/matcher.py on a GPU."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'inlay[torch]'")
pytest.importorskip("triton", reason="needs triton: pip install 'inlay[cuda]'")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device; torch sees none", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1 is set: kernels would not be compiled", allow_module_level=True)

from tests.kernels.matcher import *  # noqa: F403 - the tests, with a device of their own


@pytest.fixture
def device():
    return "cuda"
