"""Devices and dtypes of the torch backend, and the one place where its exceptions are translated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor

from intarsia.backends.device_names import check_device_name
from intarsia.backends.torch.memory import Attempt, is_out_of_memory, measured, what_would_fit
from intarsia.counted import counted
from intarsia.errors import BackendError, DeviceLost, OutOfMemory

__all__ = ["download", "installed_versions", "pick_device", "pick_dtype", "translated", "upload"]


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, else the CPU; BackendError for a named device that is not there."""
    check_device_name(name, "torch")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise BackendError(f"device {name} is not available: {_why_not_available(count)}")
    return device


def _why_not_available(count: int) -> str:
    """The reason why there is no such CUDA device: the build, the driver, or the device."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; one with it is needed"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # raises the reason, which is_available() does not give
    except RuntimeError as exc:
        text = _first_line(exc)
        return f"torch {torch.__version__} cannot use a driver for CUDA {torch.version.cuda}: {text}"
    return f"this machine has {counted(count, 'CUDA device')} for torch"


def pick_dtype(device: torch.device) -> torch.dtype:
    """float16 where tensor cores make it fast (and on the meta device), float32 on a CPU."""
    return torch.float32 if device.type == "cpu" else torch.float16


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device. To a GPU it goes through pinned memory, so that the host does not wait."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def download(tensor: Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy a tensor to the host; the function that is returned waits for the copy, in any thread.

    From a GPU it goes to pinned memory, so that the host does not wait here.
    """
    if tensor.device.type != "cuda":
        array = tensor.cpu().numpy()
        return lambda: array

    on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    on_host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    copied.record()

    def arrived() -> np.ndarray:
        with translated("copy from the device", tensor.device):
            copied.synchronize()
        return on_host.numpy()

    return arrived


def installed_versions() -> tuple[tuple[str, str], ...]:
    """(package, version) of the packages that compute, as results have them."""
    versions = []
    for package in ("torch", "triton", "transformers", "numpy"):
        try:
            versions.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(versions)


@contextmanager
def translated(what: str, device: torch.device, attempt: Attempt | None = None) -> Iterator[None]:
    """Work on ``device``, with torch's exceptions translated into this package's.

    Args:
        what: completes "failed to …".
        attempt: size of the computation, for naming one that would have fitted.
    """
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    except RuntimeError as exc:
        if is_out_of_memory(exc):
            hint = what_would_fit(attempt, measured(exc, device))
            raise OutOfMemory(f"out of memory on {device} while trying to {what}: {hint}") from exc

        failure = DeviceLost if _is_device_lost(exc) else BackendError
        raise failure(f"torch failed to {what} on {device}: {_first_line(exc)}") from exc


def _first_line(error: RuntimeError) -> str:
    if not str(error):
        return type(error).__name__
    return str(error).splitlines()[0]


def _is_device_lost(error: RuntimeError) -> bool:
    """Whether CUDA reports an error that stays; before torch 2.8 its class is RuntimeError itself."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)
