"""Opening a model's graphs as sessions, and deciding whether its steps are captured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from intarsia.backends.device_memory import release_freed
from intarsia.backends.driver import CAPTURE_LOCK
from intarsia.backends.onnx.capture_check import check_replay
from intarsia.backends.onnx.device import Device, translated
from intarsia.backends.onnx.initializers import with_format
from intarsia.backends.onnx.lane_buffers import StepSessions
from intarsia.backends.onnx.model_graphs import ModelGraphs
from intarsia.backends.onnx.stream import Stream
from intarsia.errors import BackendError
from intarsia.execution import Capture

__all__ = ["STEP", "ReopenedGraph", "held", "open_graph", "open_step_sessions"]

STEP = Path(__file__).with_name("step.onnx")
"""A row of any table; ``intarsia/export/step.py`` makes it."""


def open_graph(
    graphs: ModelGraphs,
    name: str,
    device: Device,
    *,
    stream: Stream | None = None,
    captured: bool = False,
    beside: ort.InferenceSession | None = None,
) -> ort.InferenceSession:
    """A session on one of a model's graphs; ``stream``, ``captured`` and ``beside`` as in :meth:`Device.open`."""
    folder = graphs.folder_of(name)
    content = folder.read(name)
    changed = graphs.changes.names(name, content)
    given = graphs.changes.values(name, content, folder.dtype)
    if changed:
        content = with_format(content, changed, folder.dtype)
    with translated(f"load {folder.folder / name}.onnx", device):
        return device.open(content, folder.root, stream=stream, captured=captured, given=given, beside=beside)


class ReopenedGraph:
    """A graph that is opened for each run and then released, as all but the network are where memory is short."""

    def __init__(self, graphs: ModelGraphs, name: str, device: Device) -> None:
        self._graphs, self._name, self._device = graphs, name, device
        self._session: Any = None

    def run(self, outputs: list[str] | None, inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """As a session's."""
        with self.held():
            results: list[Any] = self._session.run(outputs, inputs)
        return results

    @contextmanager
    def held(self) -> Iterator[None]:
        """The graph is open for all runs within."""
        if self._session is not None:
            yield
            return

        release_freed()  # what the network worked in, before this graph's weights take as much again
        self._session = open_graph(self._graphs, self._name, self._device)
        try:
            yield
        finally:
            self._session = None
            release_freed()


def held(graph: ort.InferenceSession) -> AbstractContextManager[None]:
    """Within it a graph is open, be it one that is opened for each run or not."""
    return graph.held() if isinstance(graph, ReopenedGraph) else nullcontext()


def open_step_sessions(graphs: ModelGraphs, device: Device, capture: Capture) -> tuple[StepSessions, tuple[str, ...]]:
    """Opens UNet and step graph; second: a note if capture was tried by default and is not possible.

    Raises:
        BackendError: ``capture`` is ``on`` and steps cannot be captured.
    """
    notes: tuple[str, ...] = ()
    if capture != "off" and device.captures:
        try:
            return _open_captured(graphs, device), notes
        except BackendError as exc:
            if capture == "on":
                raise
            notes = (f"steps are launched one operation at a time, not captured: {exc}",)
    # Outside the `except`: its traceback would keep the failed sessions alive.
    return _open_pair(graphs, device, captured=False), notes


def _open_captured(graphs: ModelGraphs, device: Device) -> StepSessions:
    why_not = device.why_not_captured(graphs.unet.dtype)
    if why_not:
        raise BackendError(f"steps cannot be captured: {why_not}")

    sessions = _open_pair(graphs, device, captured=True)
    with translated("capture a step", device), CAPTURE_LOCK:
        check_replay(sessions, graphs.facts["latent_channels"])
    return sessions


def _open_pair(graphs: ModelGraphs, device: Device, *, captured: bool) -> StepSessions:
    stream = device.stream()
    step_graph = STEP.read_bytes()
    step = device.open(step_graph, stream=stream, captured=captured)
    network = open_graph(graphs, graphs.denoiser, device, stream=stream, captured=captured)
    release_freed()
    return StepSessions(network=network, step=step, device=device, stream=stream, captured=captured)
