"""How much of a device's memory this process has used, and how much memory the machine has."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["host_bytes", "peak_device_bytes", "release_freed"]

# Limits of a container, of cgroups' second and first version.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def peak_device_bytes() -> int | None:
    """Most bytes that torch has had on the device at once; None where torch is not loaded or uses no GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    peak: int = torch.cuda.max_memory_allocated()
    return peak


def host_bytes() -> int:
    """The machine's memory, or the limit of the container that this process runs in.

    Not what is free at the moment: what is decided by it must be the same each time.
    """
    counts = [_limit(path) for path in _LIMITS]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        counts.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((count for count in counts if count > 0), default=sys.maxsize)


def release_freed() -> None:
    """Give back to the system what was freed in this process, where the C library keeps it for later (glibc)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _limit(path: Path) -> int:
    """0 where the file has none."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0
