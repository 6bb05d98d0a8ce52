"""Functions of tensors, captured once for each set of shapes: encoding and decoding by the autoencoder.

A captured call has its own buffers for inputs and outputs. They lie outside the memory in which graphs compute, because
all graphs of a session share that (:class:`intarsia.backends.torch.capture.CudaGraphCapturer`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from intarsia.backends.torch.capture import GraphCapturer, Replay
from intarsia.lru import Lru

__all__ = ["CapturedCall", "CapturedCalls", "Function"]

Function = Callable[..., tuple[Tensor, ...]]
"""Tensors → tensors, on one device; shapes of the results follow from shapes alone."""


class CapturedCall:
    """One function for one set of shapes. The first call launches it, the second captures it.

    Many shapes come up once and never again, and a capture takes as long as several dozen launches save.
    """

    def __init__(self, function: Function, capturer: GraphCapturer) -> None:
        self._function = function
        self._capturer = capturer
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()
        self._output_shapes: list[Tensor] = []
        self._replay: Replay | None = None

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``function(*inputs)``, in memory that belongs to the caller."""
        if not self._output_shapes:
            outputs = self._function(*inputs)
            self._output_shapes = [torch.empty_like(output, device="meta") for output in outputs]
            return outputs

        if self._replay is None:
            self._allocate(inputs)
            self._copy_in(inputs)  # capturing runs the function, on inputs that make sense
            self._replay = self._capturer(self._work)

        self._copy_in(inputs)
        self._replay()
        return tuple(output.clone() for output in self._outputs)

    def _allocate(self, inputs: tuple[Tensor, ...]) -> None:
        device = inputs[0].device
        self._inputs = tuple(torch.empty_like(tensor) for tensor in inputs)
        self._outputs = tuple(torch.empty_like(shape, device=device) for shape in self._output_shapes)

    def _copy_in(self, inputs: tuple[Tensor, ...]) -> None:
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            buffer.copy_(tensor)

    def _work(self) -> None:
        outputs = self._function(*self._inputs)
        for buffer, output in zip(self._outputs, outputs, strict=True):
            buffer.copy_(output)


class CapturedCalls:
    """The captured calls of one session by key, the most recently used of them.

    Args:
        capacity: how many are kept, those that came up only once among them.
    """

    def __init__(self, capturer: GraphCapturer, capacity: int) -> None:
        self._capturer = capturer
        self._calls: Lru[Hashable, CapturedCall] = Lru(capacity)

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._calls)

    def run(self, key: Hashable, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``function(*inputs)``; the same key must always come with the same function and shapes."""
        call = self._calls.get(key)
        if call is None:
            call = CapturedCall(function, self._capturer)
            self._calls.put(key, call)
        return call(*inputs)

    def clear(self) -> None:
        """Release all of them."""
        self._calls.clear()
