"""What the numbers depend on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = ("torch", "triton", "diffusers", "transformers", "tomesd", "onnxruntime", "onnxruntime-gpu", "numpy")


def environment(device: torch.device | None = None) -> dict[str, object]:
    """Commit, machine, driver and versions; ``gpu`` is None where none is used."""
    on_gpu = device is not None and device.type == "cuda"
    commit, changed = commit_of_tree()
    return {
        "commit": commit,
        "changed_files": changed,
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else None,
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


def commit_of_tree() -> tuple[str, int | None]:
    """Commit and how many files differ from it: of git, or where the tree came without, of ``INLAY_COMMIT``.

    That is ``COMMIT`` or ``COMMIT+CHANGED``. Nobody having said, the commit is empty and the count None.
    """
    said = os.environ.get("INLAY_COMMIT", "").strip()
    if said:
        commit, _, changed = said.partition("+")
        return commit, int(changed) if changed.isdigit() else None
    commit = _said("git", "-C", str(ROOT), "rev-parse", "HEAD")
    return commit, len(_said("git", "-C", str(ROOT), "status", "--porcelain").splitlines()) if commit else None


def preferred_attention(device: torch.device | None) -> str:
    """The kernel that torch's attention takes by itself, for the shape of SD1.5's first level at 512².

    The peers' attention is that. On Hopper, torch 2.11 with cuDNN above 9.15 takes cuDNN's.
    """
    query = torch.zeros(2, 8, 4096, 40, dtype=torch.float16, device=device)
    return torch.nn.attention.SDPBackend(torch._fused_sdp_choice(query, query, query)).name.lower()


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
