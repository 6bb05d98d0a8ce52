"""Embeddings that OneTrainer bundles with a LoRA: ``bundle_emb.TOKEN.clip_l``, for SDXL beside ``….clip_g``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.checkpoints.header import read_header
from intarsia.models.embedding_vectors import read_vectors

if TYPE_CHECKING:
    import numpy as np

__all__ = ["bundled_embeddings"]

# Of Stable Diffusion 1 the name says nothing of the encoder.
_NAME = re.compile(r"bundle_emb\.(?P<token>.+)\.(?P<encoder>clip_l|clip_g|string_to_param\.\*)")


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
        encoder = "clip_l" if match["encoder"].startswith("string") else match["encoder"]
        embeddings.setdefault(match["token"], {})[encoder] = read_vectors(path, name, tensor)
    return embeddings
