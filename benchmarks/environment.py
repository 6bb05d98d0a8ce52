"""What the numbers depend on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version

import torch


def environment() -> dict[str, object]:
    """What the numbers depend on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    packages = {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")}
    return {
        "commit": commit,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        **packages,
    }
