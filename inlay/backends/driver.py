"""Whether this machine has a GPU, asked of its driver: no framework is imported for that."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["gpu_count"]


def gpu_count() -> int:
    """CUDA devices that the driver knows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value
