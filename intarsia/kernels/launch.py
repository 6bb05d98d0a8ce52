"""Starting a Triton kernel, and the rules by which fused versions or plain ones are taken.

A kernel that networks use is an operation of torch's own dispatcher (``torch.ops.intarsia.…``): one for whoever counts,
traces or captures, with shapes known on the meta device. A session says once for all its layers which it wants
(:func:`pick_kernels`); a single call decides by its tensors (:func:`fused_wanted`).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from intarsia.errors import BackendError

__all__ = ["Kernel", "ceil_div", "check", "fused_wanted", "operation", "pick_kernels", "power_of_two"]

_OLDEST = (7, 0)
_MISSING = "fused kernels need triton, which is not installed: pip install 'intarsia[cuda]', or ask for plain kernels"


class Kernel:
    """A function in Triton's language; used as a decorator. Compiled when it is first launched.

    Triton is imported only then, so that the references beside the kernels work without it. Its language
    becomes the name ``tl`` of the function's module, which is where Triton looks up what the body means.

    Args:
        general: whole numbers that differ from picture size to picture size. Triton would compile anew for a 1 among
            them and for multiples of 16, at a fifth of a second each; loops that they bound are ``while`` loops, as
            the interpreter's ``range`` wants constants.
        parts: functions of the same module that its body calls. They become Triton's, too, and part of its code.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *,
        general: tuple[str, ...] = (),
        parts: tuple[Callable[..., Any], ...] = (),
    ) -> None:
        self.function, self.general, self.parts = function, general, parts

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
            raise BackendError(_MISSING) from exc
        names = self.function.__globals__
        names["tl"] = triton.language
        for part in self.parts:
            if names[part.__name__] is part:  # else another kernel that calls it came first
                names[part.__name__] = triton.jit(part)
        return triton.jit(self.function, do_not_specialize=list(self.general))

    def launch(self, grid: tuple[int, ...], first: Tensor, /, *rest: object, **options: Any) -> None:
        """Run one program for each place of ``grid``, on the device of the first argument (a CPU's is none).

        Raises:
            BackendError: triton is not installed; it, or the C compiler that it needs, failed.
        """
        kernel = self.compiled[grid]
        with torch.cuda.device(first.get_device()):
            try:
                kernel(first, *rest, **options)
            except _failures() as exc:
                name = self.function.__name__.strip("_")
                raise BackendError(
                    f"triton failed on kernel {name}: {_line(exc)}; plain kernels do without it"
                ) from exc


def _failures() -> tuple[type[Exception], ...]:
    """What triton raises where it cannot compile: its own errors, and those of running a compiler."""
    from triton.errors import TritonError

    return TritonError, subprocess.SubprocessError, OSError


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def operation(schema: str, shape: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a function that launches kernels becomes ``torch.ops.intarsia.<its name>``, without a backward pass.

    (Not by ``torch.library.custom_op``, whose first call imports torch's compiler: seconds of a cold start.)

    Args:
        schema: arguments and results, as torch's dispatcher writes them.
        shape: the same arguments → tensors like the results, with nothing in them.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__.strip("_")
        torch.library.define(f"intarsia::{name}", schema)
        # a CPU has it in Triton's interpreter
        torch.library.impl(f"intarsia::{name}", ("cpu", "cuda"), function)
        torch.library.register_fake(f"intarsia::{name}", shape)
        made: Callable[..., Any] = getattr(torch.ops.intarsia, name)
        return made

    return register


def pick_kernels(choice: str, device: torch.device) -> bool:
    """Whether networks on ``device`` run fused kernels.

    Args:
        choice: ``fused``, ``plain``, or ``auto``, which is ``fused`` on a GPU (and the meta device).

    Raises:
        BackendError: no such choice; fused ones on a CPU (but for Triton's interpreter), or on a GPU that Triton does
            not compile for, or without triton.
    """
    if choice not in ("auto", "fused", "plain"):
        raise BackendError(f"kernels must be auto, fused or plain, not {choice!r}")
    if choice == "plain" or (choice == "auto" and device.type == "cpu"):
        return False
    if device.type == "meta":
        return True
    if find_spec("triton") is None:
        raise BackendError(_MISSING)
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BackendError("fused kernels run on a CUDA device, not on a CPU; ask for plain kernels, or auto")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _OLDEST:
        name = torch.cuda.get_device_name(device)
        raise BackendError(f"fused kernels need compute capability 7.0, which {name} has not; ask for plain kernels")
    return True


def fused_wanted(fused: bool | None, *tensors: Tensor | None) -> bool:
    """Whether the kernel is to run: by default on CUDA (and meta), and on a CPU only if asked (``fused=True``).

    The kernels have no backward pass, so what needs a gradient takes the reference unless asked otherwise.
    """
    if fused is not None:
        return fused
    given = [tensor for tensor in tensors if tensor is not None]
    trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return (given[0].is_cuda or given[0].is_meta) and not trained


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
