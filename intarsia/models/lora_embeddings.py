"""Embeddings that OneTrainer bundles with a LoRA: ``bundle_emb.TOKEN.clip_l``, for SDXL beside ``….clip_g``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.checkpoints.header import read_header
from intarsia.errors import WeightsError, one_line

if TYPE_CHECKING:
    import numpy as np

__all__ = ["bundled_embeddings"]

# Of Stable Diffusion 1 the name says nothing of the encoder.
_NAME = re.compile(r"bundle_emb\.(?P<token>.+)\.(?P<encoder>clip_l|clip_g|string_to_param\.\*)")
_BFLOAT16 = "BF16"
_STORED = {"F16": "<f2", "F32": "<f4", "F64": "<f8", _BFLOAT16: "<u2"}


def bundled_embeddings(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The embeddings in a LoRA file, float32 ``[vectors, width]`` by encoder (``clip_l``, ``clip_g``), by token.

    Raises:
        WeightsError: the file is unreadable, or an embedding is no matrix of finite numbers.
    """
    header = read_header(path)
    embeddings: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in header.tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        if tensor.dtype not in _STORED or len(tensor.shape) != 2:
            raise WeightsError(f"{path}: {name} must be a matrix of numbers, not {tensor.dtype} of {tensor.shape}")
        encoder = "clip_l" if match["encoder"].startswith("string") else match["encoder"]
        vectors = _read(path, name, tensor.start, tensor.dtype, tensor.shape)
        embeddings.setdefault(match["token"], {})[encoder] = vectors
    return embeddings


def _read(path: Path, name: str, start: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    count = shape[0] * shape[1]
    try:
        stored = np.fromfile(path, _STORED[dtype], count, offset=start)
    except OSError as exc:
        raise WeightsError(f"{path}: cannot be read: {one_line(exc)}") from exc
    if len(stored) != count:
        raise WeightsError(f"{path}: changed while it was read")

    if dtype == _BFLOAT16:
        # the upper half of a float32
        stored = (stored.astype("<u4") << 16).view("<f4")
    vectors = stored.astype(np.float32).reshape(shape)
    if not np.isfinite(vectors).all():
        raise WeightsError(f"{path}: {name} has values that are not finite")
    return vectors
