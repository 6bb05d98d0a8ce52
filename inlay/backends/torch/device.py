"""Devices and number formats of the torch backend, and the one place where its exceptions are translated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import torch

from inlay.errors import BackendError, OutOfMemory

__all__ = ["installed_versions", "pick_device", "pick_dtype", "translated"]


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, else the CPU; a device asked for by name is there or refused."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise BackendError(f"device {name} is not available; this machine has {count} CUDA devices for torch")
    return device


def pick_dtype(device: torch.device) -> torch.dtype:
    """float16 where tensor cores make it fast, float32 on a CPU."""
    return torch.float16 if device.type == "cuda" else torch.float32


def installed_versions() -> tuple[tuple[str, str], ...]:
    """Versions of what computes, for the result."""
    found = []
    for package in ("torch", "transformers", "numpy"):
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(found)


@contextmanager
def translated(what: str, device: torch.device) -> Iterator[None]:
    """Turn torch's exceptions into ours; ``what`` completes "failed to …"."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as exc:
        free, total = torch.cuda.mem_get_info(device)
        raise OutOfMemory(
            f"out of memory on {device} while trying to {what}: {free >> 20} of {total >> 20} MiB are free; "
            "a smaller width and height, fewer samples or fewer slots would fit"
        ) from exc
    except RuntimeError as exc:
        text = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        if "can't allocate memory" in text or "not enough memory" in text:
            raise OutOfMemory(f"out of memory while trying to {what}: {text}") from exc
        raise BackendError(f"torch failed to {what} on {device}: {text}") from exc
