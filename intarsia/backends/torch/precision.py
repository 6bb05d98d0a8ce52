"""Whether a device can compute in ``fp8``, checked before any weights are read."""

from __future__ import annotations

import torch

from intarsia.errors import BackendError
from intarsia.kernels.float8 import quantize_reference, scaled_product

__all__ = ["product_dtype"]

_OLDEST_CAPABILITY = (8, 9)
_ALTERNATIVE = "ask for precision standard"


def product_dtype(device: torch.device, dtype: torch.dtype, *, simulate: bool = False) -> torch.dtype:
    """The dtype in which products in e4m3 are written: ``dtype``, or bfloat16 where torch can write no other.

    With scales by row, torch could at first write bfloat16 only; on compute capability 9.0 with cuBLAS 12.9, and
    elsewhere in later versions, float16 too. A small product is computed to find out.

    Args:
        dtype: of the network.
        simulate: allow a CPU, which computes the reference: slow, for tests and for measuring the loss.

    Raises:
        BackendError: the device, or torch for it, has no such products.
    """
    if device.type == "meta" or (device.type == "cpu" and simulate):
        return dtype
    needs = "precision fp8 needs a CUDA device of compute capability 8.9 or higher"
    if device.type != "cuda":
        raise BackendError(f"{needs}, not {device}; {_ALTERNATIVE}")

    name = torch.cuda.get_device_name(device)
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < _OLDEST_CAPABILITY:
        raise BackendError(f"{needs}; {name} has {major}.{minor}; {_ALTERNATIVE}")

    why = ""
    for written in dict.fromkeys((dtype, torch.bfloat16)):
        why = _why_not(device, written)
        if not why:
            return written
    raise BackendError(
        f"precision fp8 needs torch._scaled_mm with a scale for each row, which torch {torch.__version__} does not "
        f"have for {name}: {why}; {_ALTERNATIVE}"
    )


def _why_not(device: torch.device, written: torch.dtype) -> str:
    """The reason why torch cannot compute a product with a bias, in one line; empty if it can."""
    ones = torch.ones(16, 16, device=device)
    try:
        quantized = quantize_reference(ones)
        product = scaled_product(quantized, quantized, ones[0].to(written), written)
        sums = product.float().cpu()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AttributeError) as exc:  # refused on the host: torch looks before it launches
        lines = str(exc).splitlines()
        return lines[0] if lines else type(exc).__name__

    is_close = (sums - 17).abs() < 0.1
    if is_close.all():
        return ""
    return f"16 · 1 · 1 + 1 came to {float(sums[0, 0]):g}"
