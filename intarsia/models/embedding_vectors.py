"""Vectors of embeddings in safetensors files, read without torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.checkpoints.header import StoredTensor
from intarsia.errors import WeightsError, one_line

if TYPE_CHECKING:
    import numpy as np

__all__ = ["read_vectors"]

_BFLOAT16 = "BF16"
_STORED = {"F16": "<f2", "F32": "<f4", "F64": "<f8", _BFLOAT16: "<u2"}


def read_vectors(path: Path, name: str, tensor: StoredTensor, *, may_be_row: bool = False) -> np.ndarray:
    """One tensor of a file, float32 ``[vectors, width]``.

    Args:
        may_be_row: a single vector may be stored without its first dimension.

    Raises:
        WeightsError: the file is unreadable, or the tensor is no matrix of finite numbers.
    """
    import numpy as np

    shape = tensor.shape
    if may_be_row and len(shape) == 1:
        shape = (1, *shape)
    if tensor.dtype not in _STORED or len(shape) != 2 or not math.prod(shape):
        raise WeightsError(f"{path}: {name} must be a matrix of numbers, not {tensor.dtype} of {tensor.shape}")

    count = math.prod(shape)
    try:
        stored = np.fromfile(path, _STORED[tensor.dtype], count, offset=tensor.start)
    except OSError as exc:
        raise WeightsError(f"{path}: cannot be read: {one_line(exc)}") from exc
    if len(stored) != count:
        raise WeightsError(f"{path}: changed while it was read")

    if tensor.dtype == _BFLOAT16:
        # the upper half of a float32
        stored = (stored.astype("<u4") << 16).view("<f4")
    vectors = stored.astype(np.float32).reshape(shape)
    if not np.isfinite(vectors).all():
        raise WeightsError(f"{path}: {name} has values that are not finite")
    return vectors
