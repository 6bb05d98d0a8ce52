"""ONNX Runtime on one device: what it opens, and what it refuses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from intarsia.backends.device_memory import host_bytes
from intarsia.backends.memory_plan import MemoryPlan, NetworkSizes, plan_memory
from intarsia.backends.onnx.device import pick_device
from intarsia.backends.onnx.graphs import MANIFEST, find_graphs, has_graphs
from intarsia.backends.onnx.model_graphs import ModelGraphs, find_model_graphs, model_sources
from intarsia.backends.onnx.safety import OnnxChecker
from intarsia.backends.onnx.session import OnnxSession
from intarsia.backends.protocol import ModelFiles
from intarsia.checkpoints.files import read_json
from intarsia.checkpoints.layout import SCHEDULER
from intarsia.errors import BackendError, WeightsError
from intarsia.execution import FP8, Execution

__all__ = ["OnnxBackend"]

# Facts that an export has to have (intarsia/export/folder.py).
_FACTS = ("in_channels", "latent_channels", "factor", "added", "zero_empty_prompt", "towers", "attention", "merging")
# Bytes of a model's weights from which on it pays to fold them here.
_FOLDED = 2**27
# Bytes of a UNet of which an evaluation takes so long that opening text encoders and VAE anew hardly adds to an image.
_LARGE = 2**30
# The same decision on every device.
_CHECKER = ("float32",)


class OnnxBackend:
    """Opens models with ONNX Runtime on one device."""

    slots = 8

    def __init__(self, device: str, execution: Execution) -> None:
        self._execution = execution
        self._device = pick_device(device)
        self.device = self._device.name

    def why_not(self, files: ModelFiles) -> str:
        """Why :meth:`open` would refuse a model: a setting, or missing graphs; empty where it would not."""
        refused = self._refused(files)
        if refused:
            return f"made with torch: backend onnx cannot run {files.model} with {refused}"
        if all(has_graphs(source, self._device.dtypes) for source in model_sources(files).values()):
            return ""
        return f"made with torch: backend onnx has no graphs that fit the files of {files.model} (see intarsia export)"

    def checks(self, folder: Path) -> bool:
        """Whether there are graphs of a safety checker."""
        return has_graphs(folder, _CHECKER)

    def open(self, files: ModelFiles) -> OnnxSession:
        """Load a model's graphs; a model that was not exported, or that is not of the promised kind, is refused."""
        refused = self._refused(files)
        if refused:
            where = " on a GPU" if files.precision == FP8 else ""
            raise BackendError(f"backend onnx cannot run {files.model} with {refused}; backend torch can{where}")

        if files.folder.is_dir():
            read_json(files.folder / SCHEDULER)  # a plan has read it already; a model without one is half a copy
        graphs = find_model_graphs(files, self._device.dtypes)
        _check(files, graphs)
        memory = self._memory(files, graphs)
        device = self._device
        if device.kind == "cpu":
            folds = memory.weights > _FOLDED or not memory.packs
            device = replace(device, folds=folds, packs=memory.packs)
        return OnnxSession(graphs, device, self._execution.capture, memory)

    def open_checker(self, folder: Path) -> OnnxChecker:
        """Load a safety checker."""
        return OnnxChecker(find_graphs(folder, _CHECKER), self._device)

    def _memory(self, files: ModelFiles, graphs: ModelGraphs) -> MemoryPlan:
        """On a GPU by the budget alone; what it has, its provider does not say."""
        on_cpu = self._device.kind == "cpu"
        return plan_memory(
            NetworkSizes.of(graphs.stored, files),
            budget=self._execution.memory,
            device=host_bytes() if on_cpu else sys.maxsize,
            value_bytes=2 if graphs.unet.dtype == "float16" else 4,
            saves_above=_LARGE if on_cpu else None,
        )

    def _refused(self, files: ModelFiles) -> str:
        """The first thing asked for that this backend cannot do on its device; empty where it can do all."""
        execution = self._execution
        requested = {
            "fused kernels": execution.kernels == "fused",
            "precision fp8": files.precision == FP8,
            f"captured steps on {self._device.name}": execution.capture == "on" and not self._device.captures,
        }
        for name, is_requested in requested.items():
            if is_requested:
                return name
        return ""


def _check(files: ModelFiles, graphs: ModelGraphs) -> None:
    """The networks are what the registry promises; else :class:`WeightsError`."""
    facts = graphs.facts
    absent = [name for name in _FACTS if name not in facts]
    if absent:
        manifest = graphs.unet.folder / MANIFEST
        raise WeightsError(f"{manifest}: facts lack {', '.join(absent)}; export {files.model} again")

    for name in ("in_channels", "latent_channels", "factor"):
        exported = facts[name]
        promised = getattr(files, name)
        if exported != promised:
            raise WeightsError(
                f"{files.model}: its graphs have {name} {exported}, its family in the registry promises {promised}"
            )
