"""Which devices a run's processes use."""

from __future__ import annotations

from importlib.util import find_spec

from intarsia.backends.driver import gpu_count
from intarsia.batch.settings import Options
from intarsia.errors import RequestError

__all__ = ["devices"]


def devices(options: Options) -> list[str]:
    """A device for each worker process: one for each GPU, or ``workers`` times the CPU.

    Raises:
        RequestError: more workers than GPUs.
    """
    gpus = _gpus(options)
    if not gpus:
        return [options.device] * (options.workers or 1)
    workers = options.workers or len(gpus)
    if workers > len(gpus):
        raise RequestError("workers", workers, f"at most {len(gpus)}, one for each GPU")
    return gpus[:workers]


def _gpus(options: Options) -> list[str]:
    """The GPUs that the options mean; none where the work is for a CPU, or the device is for the backend to judge."""
    if options.device.startswith("cuda:"):
        return [options.device]
    if options.device not in ("auto", "cuda") or options.backend not in ("auto", "torch", "onnx") or not gpu_count():
        return []
    if options.backend == "onnx":
        return [f"cuda:{index}" for index in range(gpu_count())] if options.device == "cuda" else []
    if find_spec("torch") is None:
        return []
    import torch  # slow to import, and what the installed one cannot use does not count

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
