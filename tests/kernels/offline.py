"""Triton without a GPU: launches are specialised, and if wanted compiled, as they would be on an H100 or H200.

For a process of its own, without TRITON_INTERPRET.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch


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
def launching(seen: Callable[[str, Any], None], *, compiling: bool) -> Iterator[None]:
    """In here launches end before the device: ``seen`` gets each kernel's module and name, and what was compiled of it.

    Args:
        compiling: False only looks what would have to be compiled, and ``seen`` gets Triton's key of it.
    """
    import triton

    keys: list[str] = []

    def look(*, key: Any, **_: Any) -> bool:
        keys.append(str(key))
        return True

    original = triton.runtime.jit.JITFunction.run

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compiled = original(kernel, *arguments, grid=grid, warmup=True, **options)
        seen(f"{kernel.fn.__module__} {kernel.fn.__name__}", compiled if compiling else keys.pop())

    triton.runtime.driver.set_active(Driver())
    triton.knobs.runtime.jit_cache_hook = None if compiling else look
    try:
        with patch.object(triton.runtime.jit.JITFunction, "run", run), torch.inference_mode():
            yield
    finally:
        triton.knobs.runtime.jit_cache_hook = None
