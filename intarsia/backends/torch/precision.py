"""Which precisions a device has: what ``fp8`` needs, found out before any weights are read."""

from __future__ import annotations

import torch

from intarsia.errors import BackendError
from intarsia.kernels.float8 import quantize_reference, scaled_product

__all__ = ["product_dtype"]

_OLDEST = (8, 9)
_ELSE = "ask for precision standard"


def product_dtype(device: torch.device, dtype: torch.dtype, *, simulate: bool = False) -> torch.dtype:
    """What products in e4m3 are written in: ``dtype``, or bfloat16 where torch can write no other.

    torch had bfloat16 alone for scales by row at first; on compute capability 9.0 with cuBLAS 12.9, and elsewhere in
    later versions, it has float16 too. A small product says which.

    Args:
        dtype: of the network.
        simulate: a CPU does it too, by the reference: slow, for tests and for measuring what is lost.

    Raises:
        BackendError: the device, or torch for it, has no such products.
    """
    if device.type == "meta" or (device.type == "cpu" and simulate):
        return dtype
    needs = "precision fp8 needs a CUDA device of compute capability 8.9 or higher"
    if device.type != "cuda":
        raise BackendError(f"{needs}, not {device}; {_ELSE}")
    name, found = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if found < _OLDEST:
        raise BackendError(f"{needs}; {name} has {found[0]}.{found[1]}; {_ELSE}")
    why = ""
    for written in dict.fromkeys((dtype, torch.bfloat16)):
        why = _why_not(device, written)
        if not why:
            return written
    raise BackendError(
        f"precision fp8 needs torch._scaled_mm with a scale for each row, which torch {torch.__version__} does not "
        f"have for {name}: {why}; {_ELSE}"
    )


def _why_not(device: torch.device, written: torch.dtype) -> str:
    """What keeps torch from a product with a bias, in one line; empty where nothing does."""
    ones = torch.ones(16, 16, device=device)
    try:
        found = scaled_product(quantize_reference(ones), quantize_reference(ones), ones[0].to(written), written)
        sums = found.float().cpu()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AttributeError) as exc:  # refused on the host: torch looks before it launches
        return (str(exc).splitlines() or [type(exc).__name__])[0]
    return "" if ((sums - 17).abs() < 0.1).all() else f"16 · 1 · 1 + 1 came to {float(sums[0, 0]):g}"
