"""The CUDA driver, without a framework: the library, the number of GPUs, and the lock for captures."""

from __future__ import annotations

import ctypes
import sys
import threading

__all__ = ["CAPTURE_LOCK", "gpu_count", "load_driver"]

CAPTURE_LOCK = threading.Lock()
"""Held while a CUDA graph is captured, its warm-up included, by whatever library.

CUDA invalidates a capture when any thread of the process synchronizes the device or asks it for memory, and PyTorch
does both as it begins one. So only one capture may be under way in a process.
"""


def load_driver() -> ctypes.CDLL | None:
    """The driver's library; None where there is none."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def gpu_count() -> int:
    """Number of CUDA devices of the driver; 0 without a driver."""
    driver = load_driver()
    if driver is None:
        return 0
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value
