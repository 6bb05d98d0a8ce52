"""How much of a device's memory this process has used."""

from __future__ import annotations

import sys

__all__ = ["peak_device_bytes"]


def peak_device_bytes() -> int | None:
    """Most bytes that torch has had on the device at once; None where torch is not loaded or uses no GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    peak: int = torch.cuda.max_memory_allocated()
    return peak
