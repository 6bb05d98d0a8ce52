"""The pool that reuses lanes' device buffers, and captures the runs of shapes that come up again."""

from __future__ import annotations

from collections import deque

from intarsia.backends.driver import CAPTURE_LOCK
from intarsia.backends.onnx.device import translated
from intarsia.backends.onnx.lane_buffers import LaneBuffers, LaneInputs, Shapes, StepSessions
from intarsia.errors import BackendError
from intarsia.lru import Lru

__all__ = ["BufferPool"]

# Lanes whose buffers are captured, with four graphs each, and how many bytes these may take: 16 MB for SD1.5, 100 for
# SDXL. ONNX Runtime's CUDA provider never frees what it has captured, so further lanes are launched.
_CAPACITY, _CAPACITY_BYTES = 32, 1 << 30
# Shapes that are remembered as having come up.
_SEEN = 256


class BufferPool:
    """Buffers for a model's lanes; captured ones are reused by the next lane of the same shapes.

    A shape is launched until a lane of it has left, and captured from then on: many come up once and never again.
    Launched buffers are freed as their lane leaves; only captured ones are kept.

    Args:
        capacity: lanes whose runs are captured, idle ones among them; 0 captures none.

    Attributes:
        refused: why nothing more is captured; empty while it is.
    """

    def __init__(self, sessions: StepSessions, capacity: int = _CAPACITY) -> None:
        self.sessions = sessions
        self._capacity = capacity
        self.refused = ""
        self._captures = sessions.captured and capacity > 0
        self._captured_lanes = self._captured_bytes = 0
        self._seen: Lru[Shapes, None] = Lru(_SEEN)
        self._free: dict[Shapes, list[LaneBuffers]] = {}
        # Shapes of lanes that left, with their buffers if these are captured. Any thread may append, as it drops a
        # lane; the thread that takes buffers collects.
        self._left: deque[tuple[Shapes, LaneBuffers | None]] = deque()

    def take(self, inputs: LaneInputs) -> LaneBuffers:
        """Buffers in which a lane has started."""
        if not self._captures:
            return LaneBuffers(self.sessions, inputs)

        self._collect()
        inputs = inputs.padded()
        free = self._free.get(inputs.shapes)
        if free:
            buffers = free.pop()
            buffers.reuse(inputs)
            return buffers

        if inputs.shapes in self._seen and self._has_room(inputs):
            try:
                return self._captured(inputs)
            except BackendError as exc:
                # launching has always worked, and the next capture would fail as well
                self._capacity = 0
                self.refused = f"no further steps are captured: {exc}"
        return LaneBuffers(self.sessions, inputs)

    def leave(self, buffers: LaneBuffers) -> None:
        """Take back the buffers of a lane that is done; may be called from any thread."""
        if not self._captures:
            return
        is_reusable = buffers.is_captured and not buffers.broken
        self._left.append((buffers.shapes, buffers if is_reusable else None))

    def _collect(self) -> None:
        """Sort what lanes left behind."""
        while self._left:
            shapes, buffers = self._left.popleft()
            self._seen.put(shapes, None)
            if buffers is not None:
                self._free.setdefault(shapes, []).append(buffers)

    def _has_room(self, inputs: LaneInputs) -> bool:
        fits = self._captured_bytes + inputs.size <= _CAPACITY_BYTES
        return fits and self._captured_lanes < self._capacity

    def _captured(self, inputs: LaneInputs) -> LaneBuffers:
        # A number is never given out again: ONNX Runtime may have kept something under it even where this fails.
        graph = 2 * self._captured_lanes + 1
        self._captured_lanes += 1
        self._captured_bytes += inputs.size

        with translated("capture a step", self.sessions.device), CAPTURE_LOCK:
            buffers = LaneBuffers(self.sessions, inputs, graph)
            buffers.capture(inputs)
        return buffers
