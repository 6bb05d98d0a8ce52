"""ONNX Runtime on one device: what it opens, and what it refuses."""

from __future__ import annotations

from pathlib import Path

from intarsia.backends.onnx.device import pick_device
from intarsia.backends.onnx.graphs import MANIFEST, GraphFolder, find_graphs, has_graphs
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
        if has_graphs(files.folder, self._device.dtypes):
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

        read_json(files.folder / SCHEDULER)  # a plan has read it already; a model without one is half a copy
        graphs = find_graphs(files.folder, self._device.dtypes)
        _check(files, graphs)
        return OnnxSession(graphs, self._device, self._execution.capture)

    def open_checker(self, folder: Path) -> OnnxChecker:
        """Load a safety checker."""
        return OnnxChecker(find_graphs(folder, _CHECKER), self._device)

    def _refused(self, files: ModelFiles) -> str:
        """The first thing asked for that this backend cannot do on its device; empty where it can do all."""
        execution = self._execution
        requested = {
            "a checkpoint in one file": files.folder.is_file(),
            "text encoders of another model": files.text is not None,
            "a tokenizer of its own": files.tokenizer is not None,
            "another VAE": files.vae_folder is not None,
            "LoRAs": bool(files.loras),
            "an IP adapter": files.ip_adapter is not None,
            "fused kernels": execution.kernels == "fused",
            "precision fp8": files.precision == FP8,
            f"captured steps on {self._device.name}": execution.capture == "on" and not self._device.captures,
        }
        for name, is_requested in requested.items():
            if is_requested:
                return name
        return ""


def _check(files: ModelFiles, graphs: GraphFolder) -> None:
    """The networks are what the registry promises; else :class:`WeightsError`."""
    absent = [name for name in _FACTS if name not in graphs.facts]
    if absent:
        raise WeightsError(f"{graphs.folder / MANIFEST}: facts lack {', '.join(absent)}; export {files.model} again")

    for name in ("in_channels", "latent_channels", "factor"):
        exported = graphs.facts[name]
        promised = getattr(files, name)
        if exported != promised:
            raise WeightsError(
                f"{files.model}: its graphs have {name} {exported}, its family in the registry promises {promised}"
            )
