"""``intarsia doctor``: what is installed here, and what would run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import typer

from intarsia.commands.option_groups import grouped
from intarsia.commands.options import AsJson, Weights
from intarsia.commands.streams import print_report
from intarsia.errors import BackendError, WeightsError

if TYPE_CHECKING:
    from intarsia.registry.registry import Registry

__all__ = ["doctor"]

PACKAGES = {
    "base": ("numpy", "pillow", "pydantic", "typer", "tokenizers", "safetensors", "huggingface-hub"),
    "cpu": ("onnxruntime",),
    "torch": ("torch", "diffusers", "transformers"),
    "cuda": ("triton", "onnxruntime-gpu"),
    "export": ("onnx", "onnxscript"),
    "batch": ("pyarrow",),
    "heif": ("pillow-heif",),
    "ray": ("ray",),
    "serve": ("fastapi", "uvicorn", "sqlalchemy", "prometheus-client"),
    "serve-postgres": ("psycopg",),
    "serve-ray": ("ray",),
    "plot": ("matplotlib",),
}
"""Extra → the distributions that it installs; their versions are read off metadata, and none is imported."""

VARIABLES = ("CUDA_VISIBLE_DEVICES", "INTARSIA_GRAPHS", "INTARSIA_WEIGHTS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")

# Asked of torch in a process of its own: importing it takes seconds, and may fail in any way.
_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
print(json.dumps({"usable": torch.cuda.is_available(), "build": torch.version.cuda or "", "names": names}))
"""
_TORCH_SECONDS = 120


@grouped
def doctor(weights: Weights = None, as_json: AsJson = False) -> None:
    """Print what is installed, and what would run.

    Versions of packages, devices, which backend auto takes and why, and whether the default model is there.

    Exit code 4 where no backend is installed, 3 where the default model is missing or its files differ.
    """
    from intarsia.registry.registry import Registry

    gpus = _gpus()
    choice = automatic_choice(find_spec("torch") is not None, find_spec("onnxruntime") is not None, gpus)
    model = _default_model(Registry(weights))
    found = {
        "version": _version("intarsia"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "packages": {extra: {name: _version(name) for name in names} for extra, names in PACKAGES.items()},
        "gpus": gpus,
        "auto": choice,
        "model": model,
    }
    print_report(found) if as_json else typer.echo(_as_text(found))
    if not choice["backend"]:
        raise BackendError(choice["reason"])
    if model["problem"]:
        raise WeightsError(model["problem"])


def automatic_choice(has_torch: bool, has_onnx: bool, gpus: dict[str, Any]) -> dict[str, str]:
    """The backend that ``auto`` takes on device ``auto``, and why, as :func:`intarsia.backends.choose.choose` does."""
    if not has_torch and not has_onnx:
        return {"backend": "", "reason": "no backend is installed: pip install 'intarsia[cpu]' or 'intarsia[torch]'"}
    if not has_torch:
        return {"backend": "onnx", "reason": "onnxruntime is installed, and torch is not"}
    if gpus["usable"]:
        return {"backend": "torch", "reason": "torch can use a GPU of this machine"}

    why_cpu = f"there is no GPU that it could use ({gpus['problem']})" if gpus["problem"] else "there is no GPU"
    if not has_onnx:
        return {"backend": "torch", "reason": f"on the CPU: {why_cpu}, and onnxruntime is not installed"}
    reason = f"on the CPU: {why_cpu}; models without graphs run on torch"
    return {"backend": "onnx", "reason": reason}


def _gpus() -> dict[str, Any]:
    """GPUs of the driver, and whether the installed torch can use them; torch is asked only where there is one."""
    from intarsia.backends.driver import gpu_count

    count = gpu_count()
    found: dict[str, Any] = {"count": count, "usable": False, "names": [], "problem": ""}
    if not count or find_spec("torch") is None:
        return found

    try:
        done = subprocess.run(
            [sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=_TORCH_SECONDS, check=True
        )
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        return found | {"problem": f"torch cannot be asked: {type(exc).__name__}"}
    if not answer["usable"]:
        build = f"is built for CUDA {answer['build']}" if answer["build"] else "is built without CUDA"
        return found | {"problem": f"torch {build}"}
    return found | {"usable": True, "names": answer["names"]}


def _default_model(registry: Registry) -> dict[str, Any]:
    """The registry's default model, and what is wrong with its files; "" where nothing is."""
    from intarsia.registry.files import verify
    from intarsia.registry.listing import why_missing

    entry = registry.find(None)
    problem = why_missing(entry)
    if not problem:
        differing = [state.file.path for state in verify(entry) if state.state != "ok"]
        problem = f"{entry.id}: files differ from the registry: {', '.join(differing)}" if differing else ""
    return {"id": entry.id, "path": str(entry.path), "problem": problem}


def _version(name: str) -> str | None:
    # which takes as long to import as a third of a help
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _as_text(found: dict[str, Any]) -> str:
    """The same as lines for a person."""
    lines = [
        f"intarsia {found['version']}, Python {found['python']}, {found['cores']} cores",
        found["system"],
        *(f"{name}={value}" for name, value in found["variables"].items()),
        "",
    ]
    for extra, packages in found["packages"].items():
        present = [f"{name} {number}" for name, number in packages.items() if number]
        missing = [name for name, number in packages.items() if not number]
        absent = f"not installed: {', '.join(missing)}" if missing else ""
        lines.append(f"{extra}: " + "; ".join(part for part in (", ".join(present), absent) if part))

    names = f" ({', '.join(found['gpus']['names'])})" if found["gpus"]["names"] else ""
    auto, model = found["auto"], found["model"]
    state = model["problem"] or f"{model['id']}, its files are as the registry has them"
    return "\n".join(
        [
            *lines,
            "",
            f"GPUs: {found['gpus']['count']}{names}",
            f"auto takes: {auto['backend'] or 'nothing'}, {auto['reason']}",
            f"default model: {state}",
        ]
    )
