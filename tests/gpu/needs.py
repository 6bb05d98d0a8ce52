"""What the tests of this folder need, or the reason why they are skipped."""

from __future__ import annotations

import os

import pytest


def need_gpu() -> None:
    """Skip the module where torch has no CUDA device."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; torch sees none", allow_module_level=True)


def need_compiled_kernels() -> None:
    """Skip the module where Triton cannot compile for the device."""
    need_gpu()
    pytest.importorskip("triton", reason="needs triton: pip install 'intarsia[cuda]'")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("TRITON_INTERPRET=1 is set: kernels would not be compiled", allow_module_level=True)


def need_float8() -> None:
    """Skip the module where torch has no products in e4m3 for the device; :func:`need_gpu` comes before it."""
    import torch

    from intarsia.backends.torch.precision import product_dtype
    from intarsia.errors import BackendError

    try:
        product_dtype(torch.device("cuda"), torch.float16)
    except BackendError as exc:
        pytest.skip(str(exc), allow_module_level=True)
