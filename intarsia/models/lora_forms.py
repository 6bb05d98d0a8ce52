"""Forms in which files store the change of one tensor: low-rank, Hadamard and Kronecker products, or as it is.

Each keeps its factors as the file has them; ``delta`` multiplies them in float32, by torch or by numpy
(:mod:`.lora_arithmetic`). The names are LyCORIS' (Yeh et al. 2023, "Navigating Text-To-Image Customization",
section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from intarsia.models.lora_arithmetic import Arithmetic, Array

__all__ = ["Difference", "Form", "HadamardProduct", "KroneckerProduct", "LowRank", "fits"]


class Form(Protocol):
    """The change of one tensor, before alpha and strength."""

    @property
    def rank(self) -> int:
        """What alpha is divided by; 0 where alpha says nothing."""
        ...

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the change; a matrix ``[outputs, columns]`` where the file does not say the kernel. None: factors misfit.

        For tensors with rows the columns are ``inputs · kh · kw``.
        """
        ...

    def delta(self, arithmetic: Arithmetic) -> Array:
        """The change, float32, which may be written to, in :attr:`shape` or with that shape's columns together."""
        ...


@dataclass(frozen=True, eq=False)
class LowRank:
    """``up · down`` (Hu et al. 2021, section 4.1), of convolutions also ``up · mid · down`` (Tucker's decomposition).

    Attributes:
        down: ``[rank, inputs]``, for a convolution ``[rank, inputs, kh, kw]``.
        up: ``[outputs, rank]``, for a convolution ``[outputs, rank, 1, 1]``.
        mid: ``[rank, rank, kh, kw]``; then ``down`` is ``[rank, inputs, 1, 1]``.
    """

    down: Array
    up: Array
    mid: Array | None = None

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def shape(self) -> tuple[int, ...] | None:
        outputs, rank, *of_up = _as_kernel(self.up.shape)
        _, inputs, *kernel = _as_kernel(self.down.shape)
        if rank != len(self.down) or of_up != [1, 1] or self.down.ndim < 2:
            return None
        if self.mid is None:
            return (outputs, inputs, *kernel)
        if kernel != [1, 1] or self.mid.shape[:2] != (rank, rank):
            return None
        return (outputs, inputs, *self.mid.shape[2:])

    def delta(self, arithmetic: Arithmetic) -> Array:
        up, down = _matrix(arithmetic.float32(self.up)), _matrix(arithmetic.float32(self.down))
        if self.mid is None:
            return up @ down
        return _tucker(arithmetic, arithmetic.float32(self.mid), up, down)


@dataclass(frozen=True, eq=False)
class HadamardProduct:
    """``(up1 · down1) ∘ (up2 · down2)``, named LoHa (Hyeon-Woo et al. 2022, "FedPara").

    Attributes:
        up1, up2: ``[outputs, rank]``; with cores ``[rank, outputs]``.
        down1, down2: ``[rank, columns]``; with cores ``[rank, inputs]``.
        core1, core2: ``[rank, rank, kh, kw]``, both or none.
    """

    up1: Array
    down1: Array
    up2: Array
    down2: Array
    core1: Array | None = None
    core2: Array | None = None

    @property
    def rank(self) -> int:
        return len(self.down1)

    @property
    def shape(self) -> tuple[int, ...] | None:
        first = _product_shape(self.up1, self.down1, self.core1)
        second = _product_shape(self.up2, self.down2, self.core2)
        return first if first == second else None

    def delta(self, arithmetic: Arithmetic) -> Array:
        product = _rebuilt(arithmetic, self.up1, self.down1, self.core1)
        product *= _rebuilt(arithmetic, self.up2, self.down2, self.core2)
        return product


@dataclass(frozen=True, eq=False)
class KroneckerProduct:
    """``first ⊗ second``, named LoKr; each is stored whole or as a product.

    Attributes:
        first: ``[a, c]``, or ``[a, rank]`` and ``[rank, c]``.
        second: ``[b, d, kh, kw]``, or ``[b, rank]`` and ``[rank, columns]``.
        core: of ``second``, ``[rank, rank, kh, kw]``; its factors are then ``[rank, b]`` and ``[rank, d]``.
    """

    first: tuple[Array, ...]
    second: tuple[Array, ...]
    core: Array | None = None

    @property
    def rank(self) -> int:
        """0 where both are stored whole."""
        factored = [each for each in (self.first, self.second) if len(each) == 2]
        return len(factored[-1][1]) if factored else 0

    @property
    def shape(self) -> tuple[int, ...] | None:
        first, second = _factor_shape(self.first, None), _factor_shape(self.second, self.core)
        if first is None or second is None or len(first) != 2 or len(second) < 2:
            return None
        return (first[0] * second[0], first[1] * second[1], *second[2:])

    def delta(self, arithmetic: Arithmetic) -> Array:
        first = self._whole(arithmetic, self.first, None)
        second = self._whole(arithmetic, self.second, self.core)
        # columns of a flattened kernel stay together, since the first one's come before them
        return arithmetic.kron(first, _matrix(second))

    @staticmethod
    def _whole(arithmetic: Arithmetic, factors: tuple[Array, ...], core: Array | None) -> Array:
        if len(factors) == 1:
            return arithmetic.float32(factors[0])
        up, down = factors
        return _rebuilt(arithmetic, up, down, core)


@dataclass(frozen=True, eq=False)
class Difference:
    """The change as it is: of a weight, a bias or a norm."""

    values: Array

    @property
    def rank(self) -> int:
        return 0

    @property
    def shape(self) -> tuple[int, ...] | None:
        return tuple(self.values.shape)

    def delta(self, arithmetic: Arithmetic) -> Array:
        return arithmetic.float32(self.values, copy=True)


def _matrix(factor: Array) -> Array:
    """``[rows, …]`` → ``[rows, columns]``."""
    return factor.reshape(factor.shape[0], -1)


def _tucker(arithmetic: Arithmetic, core: Array, up: Array, down: Array) -> Array:
    """``[outputs, inputs, kh, kw]`` of a core ``[r, s, kh, kw]`` and of ``[outputs, r]`` and ``[s, inputs]``."""
    return arithmetic.einsum("rskl,or,si->oikl", core, up, down)


def _rebuilt(arithmetic: Arithmetic, up: Array, down: Array, core: Array | None) -> Array:
    up, down = arithmetic.float32(up), arithmetic.float32(down)
    if core is None:
        return _matrix(up) @ _matrix(down)
    return _tucker(arithmetic, arithmetic.float32(core), up.T, down)


def _factor_shape(factors: tuple[Array, ...], core: Array | None) -> tuple[int, ...] | None:
    if len(factors) == 1:
        return tuple(factors[0].shape)
    up, down = factors
    return _product_shape(up, down, core)


def _product_shape(up: Array, down: Array, core: Array | None) -> tuple[int, ...] | None:
    """The shape of a product; None where the factors do not fit each other."""
    if core is None:
        if up.ndim != 2 or down.ndim < 2 or up.shape[1] != len(down):
            return None
        return (len(up), *down.shape[1:])

    is_fitting = core.ndim == 4 and up.ndim == down.ndim == 2 and core.shape[:2] == (len(up), len(down))
    return (up.shape[1], down.shape[1], *core.shape[2:]) if is_fitting else None


def _as_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape with four dimensions, the last ones 1 where there were fewer."""
    absent = 4 - len(shape)
    return (*shape, *[1] * absent)


def fits(found: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a change of one shape is for a tensor of another.

    A linear layer counts as a 1x1 convolution, and a matrix fits a kernel with as many columns.
    """
    if len(found) < 2 or len(wanted) < 2 or len(found) > 4 or len(wanted) > 4:
        return tuple(found) == tuple(wanted)
    if len(found) == 2:
        return tuple(found) == (wanted[0], math.prod(wanted[1:]))
    return _as_kernel(found) == _as_kernel(wanted)
