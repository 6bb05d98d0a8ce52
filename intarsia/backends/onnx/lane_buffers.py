"""One lane's device buffers, bound to the network's and the step's session.

A CUDA graph reads the addresses that it was captured with. So buffers whose runs are captured belong to a shape, not to
a lane: when a lane leaves, the next of the same shapes is written into them and replays their graphs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from intarsia.backends.onnx.device import Device
from intarsia.backends.onnx.stream import Stream
from intarsia.backends.protocol import Shares

__all__ = ["LaneBuffers", "LaneInputs", "Shapes", "StepSessions"]

# Tables of nearly the same length share graphs: they are padded to a multiple of this.
_ROWS = 32
_BY_ROW = ("matrices", "scalars", "embeddings")
# ONNX Runtime's number for a run that is not captured.
_NOT_CAPTURED = -1

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class StepSessions:
    """The two sessions that take turns: the network, and a row of the table.

    Attributes:
        captured: the sessions can capture a run as a CUDA graph and replay it.
    """

    network: ort.InferenceSession
    step: ort.InferenceSession
    device: Device
    stream: Stream
    captured: bool = False


@dataclass(frozen=True, eq=False)
class LaneInputs:
    """A lane's inputs, by the names that the graphs have for them.

    Attributes:
        cross_kv: ``[branches, n, K]``, on the device, shared by the lanes of a request; the network's ``context``.
        network_inputs: what else the network takes: ``embeddings`` ``[R + 1, 1 or branches, T]``, and indices of
            tokens.
        step_inputs: what the step takes; ``state`` is ``[S, C, h, w]`` before the start and ``noise`` the starting
            noise.
    """

    cross_kv: ort.OrtValue
    network_inputs: Mapping[str, np.ndarray]
    step_inputs: Mapping[str, np.ndarray]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Those of both graphs, without ``cross_kv``."""
        return {**self.network_inputs, **self.step_inputs}

    @property
    def size(self) -> int:
        """In bytes."""
        cross_kv_bytes: int = 4 * math.prod(self.cross_kv.shape())
        return cross_kv_bytes + sum(array.nbytes for array in self.arrays.values())

    @property
    def shapes(self) -> Shapes:
        """What must be equal for two lanes to use the same buffers."""
        context = ("context", tuple(self.cross_kv.shape()))
        shapes = {name: array.shape for name, array in self.arrays.items()}
        return (context, *sorted(shapes.items()))

    def padded(self) -> LaneInputs:
        """The same with more rows, which are never reached."""
        network_inputs = _padded(self.network_inputs)
        step_inputs = _padded(self.step_inputs)
        return LaneInputs(self.cross_kv, network_inputs, step_inputs)


def _padded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    padded = dict(arrays)
    for name in _BY_ROW:
        if name in arrays:
            array = arrays[name]
            more_rows = -len(array) % _ROWS
            widths = [(0, 0)] * array.ndim
            widths[0] = (0, more_rows)
            padded[name] = np.pad(array, widths)
    return padded


class LaneBuffers:
    """One lane's device buffers, each bound once. State and row have two buffers each, read and written in turn.

    Args:
        graph: number of the first of two CUDA graphs of each session that capture the runs; None launches every run.
            Captured buffers have memory of their own, others use the lane's arrays where device and host are one.

    Attributes:
        broken: a run failed, so that they hold anything.
    """

    def __init__(self, sessions: StepSessions, inputs: LaneInputs, graph: int | None = None) -> None:
        self.shapes = inputs.shapes
        self.graph = graph
        self.broken = False
        self._sessions = sessions
        self._turn = 0
        self._next_row = 0
        self._allocate(inputs)
        self._turns = (self._bind(0), self._bind(1))
        self._start(inputs)

    @property
    def is_captured(self) -> bool:
        return self.graph is not None

    def capture(self, inputs: LaneInputs) -> None:
        """Run everything once, which captures it, and start the lane again."""
        for network, step in self._turns:
            network.run()
            step.run()
        self.reuse(inputs)

    def reuse(self, inputs: LaneInputs) -> None:
        """Start another lane of the same shapes, in place."""
        for name, array in inputs.arrays.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        self._start(inputs)

    def advance(self, row: int, noise: np.ndarray | None) -> None:
        """Evaluate the network for a row of the table, then apply the row.

        Args:
            noise: the row's fresh noise; None leaves what is there.
        """
        self.broken = True  # unless all of it goes well
        stream = self._sessions.stream
        step_row = row + 1
        if step_row != self._next_row:  # the device counts by itself
            stream.upload(self._rows[self._turn], np.array([step_row], np.int64))
            self._next_row = step_row
        if noise is not None:
            stream.upload(self._inputs["noise"], noise)

        network, _ = self._turns[self._turn]
        network.run()
        self._run_step()
        self.broken = False

    @property
    def latents(self) -> np.ndarray:
        """``[1, C, h, w]`` of slot 0, on the host."""
        self._sessions.stream.finish()
        state = self._states[self._turn].numpy()
        latents: np.ndarray = state[:1].copy()  # on the CPU it was the buffer itself
        return latents

    def combined(self, shares: Shares, guidance: float) -> np.ndarray:
        """Shares of slot 0, the guided output and the fresh noise after a row, float32 ``[C, h, w]`` on the host.

        Args:
            guidance: the row's, by which the step has combined the network's outputs.
        """
        self._sessions.stream.finish()
        outputs = self._output.numpy()
        guided = outputs[0] + np.float32(guidance) * (outputs[-1] - outputs[0])

        sample, noise = self._states[self._turn].numpy()[0], self._inputs["noise"].numpy()
        combined = np.float32(shares.sample) * sample + np.float32(shares.output) * guided
        if shares.noise:
            combined += np.float32(shares.noise) * noise
        return np.asarray(combined)

    def _allocate(self, inputs: LaneInputs) -> None:
        """Buffers for all inputs and outputs; the lane's arrays are in them."""
        device = self._sessions.device

        def put(array: np.ndarray) -> ort.OrtValue:
            return device.put(array.copy() if self.is_captured else array)

        self._inputs = {name: put(array) for name, array in inputs.arrays.items()}
        branches, tokens, kv_width = inputs.cross_kv.shape()
        self._inputs["context"] = inputs.cross_kv
        if self.is_captured:
            self._inputs["context"] = device.empty((branches, tokens, kv_width))

        state = inputs.step_inputs["state"]
        channels, height, width = state.shape[1:]
        extra_channels = len(inputs.step_inputs["extra"])
        self._states = (self._inputs["state"], device.empty(state.shape))
        self._rows = (device.put(np.zeros(1, np.int64)), device.put(np.zeros(1, np.int64)))
        self._output = device.empty([branches, channels, height, width])
        self._sample = device.empty([1, channels + extra_channels, height, width])

        self._network_names = ("context", *inputs.network_inputs)
        self._step_names = tuple(inputs.step_inputs)

    def _bind(self, turn: int) -> tuple[_BoundRun, _BoundRun]:
        """The network's and the step's run that read one of the two states; the step writes the other."""
        other = 1 - turn
        state, new_state = self._states[turn], self._states[other]
        row, next_row = self._rows[turn], self._rows[other]
        graph = None if self.graph is None else self.graph + turn

        network = _BoundRun(self._sessions, self._sessions.network, graph)
        network.bind_inputs({name: self._inputs[name] for name in self._network_names})
        network.bind_inputs({"sample": self._sample, "row": row})
        network.bind_outputs({"output": self._output})

        step = _BoundRun(self._sessions, self._sessions.step, graph)
        step.bind_inputs({name: self._inputs[name] for name in self._step_names if name != "state"})
        step.bind_inputs({"output": self._output, "state": state, "row": row})
        step.bind_outputs({"new_state": new_state, "next_row": next_row, "sample": self._sample})
        return network, step

    def _start(self, inputs: LaneInputs) -> None:
        if self.is_captured:
            self._sessions.stream.copy(self._inputs["context"], inputs.cross_kv)

        # the start's row takes nothing of it, but zero times a number that is not finite is not zero
        zeros = np.zeros(self._output.shape(), np.float32)
        self._output.update_inplace(zeros)

        self._turn = 0
        self._next_row = 0
        self._rows[0].update_inplace(np.zeros(1, np.int64))
        self._run_step()

    def _run_step(self) -> None:
        _, step = self._turns[self._turn]
        step.run()
        self._turn = 1 - self._turn
        self._next_row += 1


class _BoundRun:
    """A run of a session with its buffers bound; ``graph`` is the number of its CUDA graph, None for a launched run."""

    def __init__(self, sessions: StepSessions, session: ort.InferenceSession, graph: int | None) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._options = ort.RunOptions()
        if sessions.stream.handle:
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if sessions.captured:
            number = _NOT_CAPTURED if graph is None else graph
            self._options.add_run_config_entry("gpu_graph_id", str(number))
        self._stream = sessions.stream  # goes last: the session holds its handle

    def bind_inputs(self, values: Mapping[str, ort.OrtValue]) -> None:
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)

    def bind_outputs(self, values: Mapping[str, ort.OrtValue]) -> None:
        for name, value in values.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)
