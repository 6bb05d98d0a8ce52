"""What the numbers depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.commit import commit_of_tree, said

PACKAGES = ("torch", "triton", "diffusers", "transformers", "tomesd", "onnxruntime", "onnxruntime-gpu", "numpy")


def environment(device: torch.device | None = None) -> dict[str, object]:
    """Commit, machine, driver and versions; ``gpu`` is None where none is used."""
    on_gpu = device is not None and device.type == "cuda"
    commit, changed = commit_of_tree()
    return {
        "commit": commit,
        "changed_files": changed,
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "sdpa": preferred_attention(device) if on_gpu else None,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def preferred_attention(device: torch.device | None) -> str:
    """The kernel that torch's attention takes by itself, for the shape of SD1.5's first level at 512².

    The peers' attention is that. On Hopper, torch 2.11 with cuDNN above 9.15 takes cuDNN's.
    """
    query = torch.zeros(2, 8, 4096, 40, dtype=torch.float16, device=device)
    return torch.nn.attention.SDPBackend(torch._fused_sdp_choice(query, query, query)).name.lower()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
