"""Functions of tensors, recorded once for each shape of what they are given: the autoencoder's two ways.

A recording has fixed places for what goes in and what comes out. They lie outside the memory in which recordings
compute, because that is shared by all of a session (:class:`intarsia.backends.torch.capture.CudaRecorder`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from intarsia.backends.torch.capture import Recorder, Replay

__all__ = ["Function", "Recorded", "Recordings"]

Function = Callable[..., tuple[Tensor, ...]]
"""Tensors → tensors, on one device; shapes of the results follow from shapes alone."""


class Recorded:
    """One function for one set of shapes. It is launched as it stands the first time, and recorded the second.

    Many shapes come up once and never again, and a recording takes as long as several dozen launches save.
    """

    def __init__(self, function: Function, recorder: Recorder) -> None:
        self._function, self._recorder = function, recorder
        self._given: tuple[Tensor, ...] = ()
        self._found: tuple[Tensor, ...] = ()
        self._shapes: list[Tensor] = []
        self._replay: Replay | None = None

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        """``function(*given)``, in memory that belongs to the caller."""
        if not self._shapes:
            made = self._function(*given)
            self._shapes = [torch.empty_like(each, device="meta") for each in made]
            return made
        if self._replay is None:
            self._given = tuple(torch.empty_like(each) for each in given)
            self._found = tuple(torch.empty_like(each, device=given[0].device) for each in self._shapes)
            self._hand_over(given)  # it is run as it is recorded, on something sensible
            self._replay = self._recorder(self._work)
        self._hand_over(given)
        self._replay()
        return tuple(each.clone() for each in self._found)

    def _hand_over(self, given: tuple[Tensor, ...]) -> None:
        for place, each in zip(self._given, given, strict=True):
            place.copy_(each)

    def _work(self) -> None:
        for place, each in zip(self._found, self._function(*self._given), strict=True):
            place.copy_(each)


class Recordings:
    """Those of one session, by key; the longest unused goes once there are too many.

    Args:
        most: how many are kept, those that came up only once among them.
    """

    def __init__(self, recorder: Recorder, most: int) -> None:
        self._recorder, self._most = recorder, most
        self._kept: OrderedDict[Hashable, Recorded] = OrderedDict()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def run(self, key: Hashable, function: Function, *given: Tensor) -> tuple[Tensor, ...]:
        """``function(*given)``; the same key must always come with the same function and shapes."""
        if key not in self._kept:
            self._kept[key] = Recorded(function, self._recorder)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key](*given)

    def clear(self) -> None:
        """Let all of them go."""
        self._kept.clear()
