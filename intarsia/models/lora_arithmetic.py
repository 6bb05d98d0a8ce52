"""What the change of a tensor is computed with: the few functions that torch and numpy spell differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from intarsia.checkpoints.header import Header
from intarsia.checkpoints.stored import Place

__all__ = ["Arithmetic", "Array", "Reader"]

Array = Any
"""A tensor of torch or an array of numpy: shape, ``reshape``, ``@``, ``.T`` and operators in place are alike."""

Reader = Callable[[Mapping[str, Place], Mapping[Path, Header]], Iterator[tuple[str, Array]]]
"""Gives stored tensors by their names, one after the other."""


class Arithmetic(Protocol):
    """Arithmetic of one library, in float32, in one place."""

    EPS: float
    """The difference of 1 and the next number."""

    def float32(self, factor: Array, *, copy: bool = False) -> Array:
        """A stored factor as it is computed with; ``copy`` makes one that may be written to in any case."""
        ...

    def zeros(self, shape: Sequence[int]) -> Array:
        """Nothing but zeros."""
        ...

    def einsum(self, equation: str, *operands: Array) -> Array:
        """Einstein's sum."""
        ...

    def kron(self, one: Array, other: Array) -> Array:
        """Kronecker's product of two matrices."""
        ...

    def norm(self, values: Array, axes: tuple[int, ...]) -> Array:
        """Euclidean lengths over some dimensions, which stay with the size 1."""
        ...
