"""What the numbers depend on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("torch", "triton", "diffusers", "transformers", "tomesd", "onnxruntime", "onnxruntime-gpu", "numpy")


def environment(device: torch.device | None = None) -> dict[str, object]:
    """Commit, machine, driver and versions; ``gpu`` is None where none is used."""
    on_gpu = device is not None and device.type == "cuda"
    return {
        "commit": _said("git", "rev-parse", "HEAD"),
        "changed_files": len(_said("git", "status", "--porcelain").splitlines()),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _said(*command: str) -> str:
    """What a command prints, nothing where it is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
