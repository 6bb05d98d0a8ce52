"""Additions of LoRAs computed by numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from intarsia.models.lora import Additions

__all__ = ["NUMPY", "changed"]


class NumpyArithmetic:
    """:class:`.lora_arithmetic.Arithmetic` in the host's memory."""

    EPS = float(np.finfo(np.float32).eps)

    def float32(self, factor: np.ndarray, *, copy: bool = False) -> np.ndarray:
        return np.array(factor, np.float32) if copy else np.asarray(factor, np.float32)

    def zeros(self, shape: Sequence[int]) -> np.ndarray:
        return np.zeros(tuple(shape), np.float32)

    def einsum(self, equation: str, *operands: np.ndarray) -> np.ndarray:
        # in pairs: all at once takes as many multiplications as all sizes together
        made: np.ndarray = np.einsum(equation, *operands, optimize=True)
        return made

    def kron(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.kron(one, other)

    def norm(self, values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        lengths: np.ndarray = np.sqrt(np.square(values).sum(axis=axes, keepdims=True))
        return lengths


NUMPY = NumpyArithmetic()


def changed(additions: Additions, network: str, name: str, stored: np.ndarray, dtype: str) -> np.ndarray:
    """A tensor with what LoRAs add to it, in a number format.

    Args:
        name: of a tensor that changes, without transformers' ``text_model.``.

    Raises:
        WeightsError: ``dtype`` cannot hold the sum.
    """
    total: np.ndarray = additions.total(network, name, stored, NUMPY)
    if total.size:
        limit = float(np.finfo(dtype).max)
        additions.check(f"{network}.{name}", (float(total.min()), float(total.max())), limit, dtype)
    return total.astype(dtype, copy=False)
