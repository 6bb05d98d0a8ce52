"""Triton without a GPU: launches are specialised, and if wanted compiled, as they would be on an H100 or H200.

For a process of its own, without TRITON_INTERPRET.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from intarsia.kernels.launch import Kernel


class Driver:
    """What Triton asks of a driver before it launches."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def launching(seen: Callable[[Kernel, Any], None], *, compiling: bool):
    """In here launches end before the device: ``seen`` gets each kernel, and what was compiled of it.

    Args:
        compiling: False only looks what would have to be compiled, and ``seen`` gets Triton's key of it.
    """
    import triton

    found: list[Any] = []

    def look(*, key, **_):
        found.append(str(key))
        return True

    def launch(kernel, grid, first, /, *rest, **options):
        made = kernel.compiled.run(first, *rest, grid=grid, warmup=True, **options)
        seen(kernel, made if compiling else found.pop())

    kept = Kernel.launch
    triton.runtime.driver.set_active(Driver())
    triton.knobs.runtime.jit_cache_hook = None if compiling else look
    Kernel.launch = launch
    try:
        with torch.inference_mode():
            yield
    finally:
        Kernel.launch, triton.knobs.runtime.jit_cache_hook = kept, None
