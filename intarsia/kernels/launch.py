"""Launching Triton kernels, and the rules by which a fused kernel or its plain reference runs.

Each kernel's module (``geglu.py``) has its reference, its wrapper and the wrapper's checks; the kernel itself is in the
module beside it (``geglu_triton.py``), which the wrapper imports at its first launch, as only that needs Triton.

A kernel that networks use is an operation of torch's own dispatcher (``torch.ops.intarsia.…``): one node for whatever
counts, traces or captures, with shapes known on the meta device. A session chooses once for all its layers
(:func:`pick_kernels`); a single call decides by its tensors (:func:`runs_fused`).

Arguments under ``do_not_specialize`` differ from image size to image size. Triton would compile anew for a 1 among them
and for multiples of 16, at a fifth of a second each; loops that they bound are ``while`` loops, as the interpreter's
``range`` takes constants only.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from intarsia.errors import BackendError
from intarsia.execution import Kernels

__all__ = ["ceil_div", "check", "described", "launching", "operation", "pick_kernels", "power_of_two", "runs_fused"]

_LEAST_CAPABILITY = (7, 0)
_MISSING = "fused kernels need triton, which is not installed: pip install 'intarsia[cuda]', or ask for plain kernels"


@contextmanager
def launching(kernel: str, on: Tensor) -> Iterator[None]:
    """Context for importing and launching a kernel: the tensor's device is current, Triton's errors are translated.

    Args:
        kernel: its name in error messages.
        on: any tensor of the launch; one on the CPU is for Triton's interpreter.

    Raises:
        BackendError: triton is not installed; it, or the C compiler that it needs, failed.
    """
    try:
        with torch.cuda.device(on.get_device()):
            yield
    except ModuleNotFoundError as exc:
        raise BackendError(_MISSING) from exc
    except _triton_failures() as exc:
        sentence = f"triton failed on kernel {kernel}: {_first_line(exc)}; plain kernels do without it"
        raise BackendError(sentence) from exc


def _triton_failures() -> tuple[type[Exception], ...]:
    """What Triton raises where it cannot compile: its own errors, and those of running a compiler."""
    from triton.errors import TritonError

    return TritonError, subprocess.SubprocessError, OSError


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def operation(schema: str, shape: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: a function that launches kernels becomes ``torch.ops.intarsia.<its name>``, without a backward pass.

    (Not by ``torch.library.custom_op``, whose first call imports torch's compiler: seconds of a cold start.)

    Args:
        schema: arguments and results, as torch's dispatcher writes them.
        shape: the same arguments → uninitialized tensors like the results.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__.strip("_")
        torch.library.define(f"intarsia::{name}", schema)
        # on a CPU Triton's interpreter runs it
        torch.library.impl(f"intarsia::{name}", ("cpu", "cuda"), function)
        torch.library.register_fake(f"intarsia::{name}", shape)

        operator: Callable[..., Any] = getattr(torch.ops.intarsia, name)
        return operator

    return register


def pick_kernels(choice: Kernels, device: torch.device) -> bool:
    """Whether networks on ``device`` run fused kernels.

    Args:
        choice: ``auto`` is ``fused`` on a GPU (and the meta device), ``plain`` on a CPU.

    Raises:
        BackendError: fused ones on a CPU (but for Triton's interpreter), or on a GPU that Triton does not compile for,
            or without triton.
    """
    if choice == "plain":
        return False
    if choice == "auto" and device.type == "cpu":
        return False
    if device.type == "meta":
        return True

    if find_spec("triton") is None:
        raise BackendError(_MISSING)
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BackendError("fused kernels run on a CUDA device, not on a CPU; ask for plain kernels, or auto")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise BackendError(f"fused kernels need compute capability 7.0, which {name} has not; ask for plain kernels")
    return True


def runs_fused(fused: bool | None, *tensors: Tensor | None) -> bool:
    """Whether the kernel runs: by default on CUDA (and meta), and on a CPU only if asked for (``fused=True``).

    The kernels have no backward pass, so what needs a gradient takes the reference unless ``fused`` says otherwise.
    """
    if fused is not None:
        return fused

    present = [tensor for tensor in tensors if tensor is not None]
    first = present[0]
    is_trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in present)
    return (first.is_cuda or first.is_meta) and not is_trained


def check(fits: bool, argument: str, allowed: str, actual: object) -> None:
    """Refuse an argument that is not as the kernel's addressing needs it.

    Args:
        argument: ``"kernel: argument"``, as the message begins.

    Raises:
        BackendError: names kernel, argument, what is allowed, and what was passed.
    """
    if not fits:
        raise BackendError(f"kernel {argument} must be {allowed}, not {actual}")


def described(tensor: Tensor) -> str:
    """Dtype and shape, for :func:`check`."""
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def ceil_div(count: int, size: int) -> int:
    """How many blocks of ``size`` hold ``count``."""
    return -(-count // size)


def power_of_two(count: int) -> int:
    """The least power of two that is not below ``count``; Triton's blocks have such sizes."""
    highest = max(0, count - 1)
    return 1 << highest.bit_length()
