"""Places on the device for one lane, bound to the two sessions that take turns on it, and what becomes of them.

A CUDA graph holds the addresses that it was recorded with. So buffers whose runs are recorded belong to a shape, not to
a lane: when a lane leaves, the next of the same shapes is written into them and replays what is there.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from intarsia.backends.driver import CAPTURE_LOCK
from intarsia.backends.onnx.device import Device, translated
from intarsia.backends.onnx.stream import Stream
from intarsia.errors import BackendError

__all__ = ["Buffers", "Given", "Loop", "Pool"]

# Lanes whose buffers are recorded, with four graphs each, and how many bytes these may take: 16 MB for SD1.5, 100 for
# SDXL. ONNX Runtime's CUDA provider never lets go of what it has recorded, so further lanes are launched.
_MOST, _MOST_BYTES = 32, 1 << 30
# Shapes that are remembered as having come up.
_SEEN = 256
# Tables of nearly the same length share graphs: they are filled up to a multiple of this.
_ROWS = 32
_BY_ROW = ("matrices", "scalars", "embeddings")
_NEVER = -1

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Loop:
    """The two graphs that take turns: the network, and a row of the table.

    Attributes:
        captured: the sessions can record a run as a CUDA graph and replay it.
    """

    network: ort.InferenceSession
    step: ort.InferenceSession
    device: Device
    stream: Stream
    captured: bool = False


@dataclass(frozen=True, eq=False)
class Given:
    """What a lane starts with.

    Attributes:
        context: ``[halves, n, K]``, on the device, shared by lanes of a request.
        told: what else the network takes: ``embeddings`` ``[R + 1, 1 or halves, T]``, and indices of tokens.
        arrays: by the names of the step graph's inputs; ``state`` is ``[S, C, h, w]`` before the start and
            ``noise`` the starting noise.
    """

    context: ort.OrtValue
    told: Mapping[str, np.ndarray]
    arrays: Mapping[str, np.ndarray]

    @property
    def size(self) -> int:
        """In bytes."""
        arrays = (*self.told.values(), *self.arrays.values())
        return sum([4 * math.prod(self.context.shape()), *(array.nbytes for array in arrays)])

    @property
    def shapes(self) -> Shapes:
        """What must be equal for two lanes to use the same buffers."""
        found = {name: array.shape for name, array in {**self.told, **self.arrays}.items()}
        return (("context", tuple(self.context.shape())), *sorted(found.items()))

    def filled_up(self) -> Given:
        """The same with more rows, which are never reached."""
        return Given(self.context, _filled_up(self.told), _filled_up(self.arrays))


def _filled_up(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    made = dict(arrays)
    for name in _BY_ROW:
        if name in made:
            more = -len(made[name]) % _ROWS
            made[name] = np.pad(made[name], [(0, more)] + [(0, 0)] * (made[name].ndim - 1))
    return made


class Buffers:
    """One lane on the device. State and row have two places each, which take turns; everything is bound once.

    Args:
        number: of the first of two graphs of each session that record these buffers' runs; None launches every run.
            Buffers with a number have memory of their own, others use the lane's where device and host are one.
    """

    def __init__(self, loop: Loop, given: Given, number: int | None = None) -> None:
        self.shapes, self.number, self._loop = given.shapes, number, loop
        self.broken = False
        put, empty = loop.device.put, loop.device.empty
        held = {name: put(array if number is None else array.copy()) for name, array in given.arrays.items()}
        inputs = {name: put(array if number is None else array.copy()) for name, array in given.told.items()}
        inputs["context"] = given.context if number is None else empty(given.context.shape())
        _, *shape = given.arrays["state"].shape
        self._output = held["output"] = empty([given.context.shape()[0], *shape])
        self._held = held | inputs
        self._states = [held.pop("state"), empty(given.arrays["state"].shape)]
        self._rows = [put(np.zeros(1, np.int64)) for _ in range(2)]
        sample = empty([1, shape[0] + len(given.arrays["extra"]), *shape[1:]])
        self._turns = [
            (
                _Call(loop, loop.network, {**inputs, "sample": sample, "row": row}, {"output": self._output}, graph),
                _Call(
                    loop,
                    loop.step,
                    {**held, "state": old, "row": row},
                    {"new_state": new, "next_row": following, "sample": sample},
                    graph,
                ),
            )
            for (old, new), (row, following), graph in zip(
                (self._states, self._states[::-1]),
                (self._rows, self._rows[::-1]),
                (None, None) if number is None else (number, number + 1),
                strict=True,
            )
        ]
        self._begin(given)

    def record(self, given: Given) -> None:
        """Run everything once, which records it, and make the lane's start again."""
        for network, step in self._turns:
            network.run()
            step.run()
        self.take_over(given)

    def take_over(self, given: Given) -> None:
        """Make another lane's start of them, in place."""
        for name, array in {**given.told, **given.arrays}.items():
            self._held[name].update_inplace(np.ascontiguousarray(array))
        self._begin(given)

    def _begin(self, given: Given) -> None:
        if self.number is not None:
            self._loop.stream.copy(self._held["context"], given.context)
        # the start's row takes nothing of it, but zero times a number that is not finite is not zero
        self._output.update_inplace(np.zeros(self._output.shape(), np.float32))
        self._at, self._next = 0, 0
        self._rows[0].update_inplace(np.zeros(1, np.int64))
        self._step()

    def advance(self, row: int, noise: np.ndarray | None) -> None:
        """Evaluate the network for a row of the table, then do what the row says."""
        self.broken = True  # unless all of it goes well
        if row + 1 != self._next:  # the device counts by itself
            self._loop.stream.upload(self._rows[self._at], np.array([row + 1], np.int64))
            self._next = row + 1
        if noise is not None:
            self._loop.stream.upload(self._held["noise"], noise)
        self._turns[self._at][0].run()
        self._step()
        self.broken = False

    @property
    def latents(self) -> np.ndarray:
        """``[1, C, h, w]`` of slot 0, on the host."""
        self._loop.stream.finish()
        latents: np.ndarray = self._states[self._at].numpy()[:1].copy()  # on the CPU it was the buffer itself
        return latents

    def _step(self) -> None:
        self._turns[self._at][1].run()
        self._at, self._next = 1 - self._at, self._next + 1


class _Call:
    """A session with its buffers bound; ``graph`` is the number of what is recorded, None for nothing."""

    def __init__(
        self,
        loop: Loop,
        session: ort.InferenceSession,
        inputs: Mapping[str, ort.OrtValue],
        outputs: Mapping[str, ort.OrtValue],
        graph: int | None,
    ) -> None:
        self._session, self._binding, self._options = session, session.io_binding(), ort.RunOptions()
        for name, value in inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        if loop.stream.handle:
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if loop.captured:
            self._options.add_run_config_entry("gpu_graph_id", str(_NEVER if graph is None else graph))
        self._stream = loop.stream  # goes last: the session holds its handle

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)


class Pool:
    """A loop's buffers. What lanes leave behind is there for the next of the same shapes, where runs are recorded.

    A shape is launched until a lane of it has left, and recorded from then on: many come up once and never again.
    Buffers whose runs are launched are freed as their lane leaves; nothing but recorded ones is kept.

    Args:
        most: lanes whose runs are recorded, those at rest among them; 0 records none.

    Attributes:
        refused: why nothing more is recorded, where something could not be.
    """

    def __init__(self, loop: Loop, most: int = _MOST) -> None:
        self.loop, self._most = loop, most
        self.refused = ""
        self._records = loop.captured and most > 0
        self._numbers = self._bytes = 0
        self._seen: OrderedDict[Shapes, None] = OrderedDict()
        self._free: dict[Shapes, list[Buffers]] = {}
        # Shapes of lanes that left, with their buffers where these are recorded: whoever drops a lane appends, and
        # the thread that takes buffers sorts.
        self._left: deque[tuple[Shapes, Buffers | None]] = deque()

    def take(self, given: Given) -> Buffers:
        """Buffers in which a lane has started."""
        if not self._records:
            return Buffers(self.loop, given)

        self._sort()
        given = given.filled_up()
        free = self._free.get(given.shapes)
        if free:
            buffers = free.pop()
            buffers.take_over(given)
            return buffers

        if given.shapes in self._seen and self._has_room(given):
            try:
                return self._recorded(given)
            except BackendError as exc:
                # launching has always worked, and the next recording would fail as well
                self._most, self.refused = 0, f"no further steps are captured: {exc}"
        return Buffers(self.loop, given)

    def leave(self, buffers: Buffers) -> None:
        """A lane is done with its buffers; may be called from any thread."""
        if not self._records:
            return
        is_recorded = buffers.number is not None and not buffers.broken
        self._left.append((buffers.shapes, buffers if is_recorded else None))

    def _sort(self) -> None:
        while self._left:
            shapes, buffers = self._left.popleft()
            self._seen[shapes] = None
            self._seen.move_to_end(shapes)
            if buffers is not None:
                self._free.setdefault(shapes, []).append(buffers)
        while len(self._seen) > _SEEN:
            self._seen.popitem(last=False)

    def _has_room(self, given: Given) -> bool:
        return self._numbers < self._most and self._bytes + given.size <= _MOST_BYTES

    def _recorded(self, given: Given) -> Buffers:
        # A number is never given out again: ONNX Runtime may have kept something under it even where this fails.
        number = 2 * self._numbers + 1
        self._numbers, self._bytes = self._numbers + 1, self._bytes + given.size
        with translated("capture a step", self.loop.device), CAPTURE_LOCK:
            buffers = Buffers(self.loop, given, number)
            buffers.record(given)
        return buffers
