"""Starting a Triton kernel, and the rule by which a fused version or its reference is taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from inlay.errors import BackendError

__all__ = ["Kernel", "ceil_div", "check", "fused_wanted", "power_of_two"]


class Kernel:
    """A function in Triton's language; used as a decorator. Compiled when it is first launched.

    Triton is imported only then, so that the references beside the kernels work without it. Its language
    becomes the name ``tl`` of the function's module, which is where Triton looks up what the body means.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    @cached_property
    def compiled(self) -> Any:
        """The function as Triton holds it; under ``TRITON_INTERPRET=1`` one that runs on the CPU.

        Raises:
            BackendError: triton is not installed.
        """
        try:
            import triton
            import triton.language
        except ModuleNotFoundError as exc:
            raise BackendError("fused kernels need triton, which is not installed: pip install 'inlay[cuda]'") from exc
        self.function.__globals__["tl"] = triton.language
        return triton.jit(self.function)

    def launch(self, grid: tuple[int, ...], first: Tensor, /, *rest: object, **options: Any) -> None:
        """Run one program for each place of ``grid``, on the device of the first argument (a CPU's is none)."""
        with torch.cuda.device(first.get_device()):
            self.compiled[grid](first, *rest, **options)


def fused_wanted(fused: bool | None, *tensors: Tensor | None) -> bool:
    """Whether the kernel is to run: by default on CUDA, and on a CPU only if asked (``fused=True``).

    The kernels have no backward pass, so what needs a gradient takes the reference unless asked otherwise.
    """
    if fused is not None:
        return fused
    given = [tensor for tensor in tensors if tensor is not None]
    trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return given[0].is_cuda and not trained


def check(fits: bool, kernel: str, name: str, allowed: str, found: object) -> None:
    """Refuse an argument that is not as the kernel's addressing needs it.

    Raises:
        BackendError: names kernel, argument, what is allowed, and what was given.
    """
    if not fits:
        raise BackendError(f"kernel {kernel}: {name} must be {allowed}, not {found}")


def ceil_div(count: int, size: int) -> int:
    """How many blocks of ``size`` hold ``count``."""
    return -(-count // size)


def power_of_two(count: int) -> int:
    """The least power of two that is not below ``count``; Triton's blocks have such sizes."""
    return 1 << max(0, count - 1).bit_length()
