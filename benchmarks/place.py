"""Where cases run, and how they get an engine, our images and a model on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import intarsia
from benchmarks import networks, peers
from benchmarks.cases import COMPILED, Case
from benchmarks.jobs import requests
from intarsia.backends.torch.device import pick_dtype

DISK = "on-disk"


@dataclass(frozen=True)
class Place:
    """One machine's device, and what the cases of one run share.

    Attributes:
        folder: temporary; model folders are made in it.
        shrunk: networks of a size for a CPU.
        peers: those to measure; None is all.
        capture: our engine's, on a GPU.
    """

    device: torch.device
    folder: Path
    environment: dict[str, object]
    shrunk: bool = False
    peers: tuple[str, ...] | None = None
    capture: str = "auto"

    @property
    def compiles(self) -> bool:
        """Whether the compiled peer's turn has come; then the others are not timed again."""
        return self.peers == (COMPILED,)

    @property
    def dtype(self) -> torch.dtype:
        return pick_dtype(self.device)

    @property
    def half(self) -> bool:
        return self.dtype == torch.float16

    def weights(self, case: Case) -> networks.Weights:
        """Which random networks a case has here."""
        return networks.Weights(case.family, self.shrunk)

    def registry(self, case: Case) -> Path | None:
        """The ``weights.toml`` of the case's random networks; None for the packaged model."""
        if case.family == "packaged":
            return None
        return networks.write_registry(self.folder / case.family, {case.family: self.weights(case)})

    def pipeline(self, case: Case, dtype: torch.dtype) -> Any:
        """A peer's pipeline on the case's weights, the same values in any ``dtype``."""
        if case.family == "packaged":
            return peers.packaged(self.device)
        weights = self.weights(case)
        made = networks.parts(weights, self.device, self.dtype)
        return peers.pipeline(weights, made, self.device, dtype)

    def on_disk(self, case: Case) -> Path:
        """A model folder with the case's weights in files; written once."""
        folder = self.folder / DISK
        if not folder.is_dir():
            self.pipeline(case, self.dtype).save_pretrained(folder)
        return folder

    def exported(self, case: Case) -> Path:
        """The ``weights.toml`` of a model folder whose graphs are in a cache of this run's own."""
        from intarsia.export.folder import cached, export_model

        model, graphs = self.on_disk(case), self.folder / "graphs"
        os.environ["INTARSIA_GRAPHS"] = str(graphs)
        dtype = "float16" if self.half else "float32"
        if not cached(model, dtype, graphs).is_dir():
            export_model(model, cached(model, dtype, graphs), dtype)
        return self.listed(model, case, "exported")

    def listed(self, model: Path, case: Case, name: str, more: Sequence[str] = ()) -> Path:
        """A ``weights.toml`` with a model folder as its only model; ``more`` are further lines."""
        lines = ["schema = 1", f'default = "{DISK}"', f"[models.{DISK}]", f'family = "{case.family}"']
        registry = self.folder / f"{name}.toml"
        registry.write_text("\n".join([*lines, f"path = {json.dumps(str(model))}", *more]) + "\n")
        return registry


@contextmanager
def engine(case: Case, place: Place) -> Iterator[intarsia.Engine]:
    """An engine whose default model is the case's."""
    if case.backend == "onnx" and case.family != "packaged":
        backend, path = "onnx", place.exported(case)
    else:
        networks.register()
        path = place.registry(case)
        backend = case.backend if path is None else "random"
    capture = place.capture if backend == "random" else "auto"
    with intarsia.Engine(backend, str(place.device), weights=path, capture=capture, precision=case.precision) as opened:
        yield opened


def ours(opened: intarsia.Engine, case: Case, size: tuple[int, int] | None = None) -> Callable[[], list[Image.Image]]:
    """The case's job for our engine, all its images asked for at once."""
    asked = requests(case, None, size=size)

    def run() -> list[Image.Image]:
        tickets = [opened.submit(request) for request in asked]
        return [picture for ticket in tickets for picture in ticket.result().generated]

    return run


def ran(opened: intarsia.Engine, case: Case) -> dict[str, Any]:
    """What runs the case in our engine: kernels, capture, attention, notes. A number without it says little."""
    return opened.run(requests(case, None)[0]).ran
