"""Vectors of the embeddings that OneTrainer bundles with a LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.checkpoints.bundled_embeddings import bundled_names
from intarsia.checkpoints.header import read_header
from intarsia.models.embedding_vectors import read_vectors

if TYPE_CHECKING:
    import numpy as np

__all__ = ["bundled_embeddings"]


def bundled_embeddings(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The embeddings in a LoRA file, float32 ``[vectors, width]`` by encoder (``clip_l``, ``clip_g``), by word.

    Raises:
        WeightsError: the file is unreadable, or an embedding is no matrix of finite numbers.
    """
    tensors = read_header(path).tensors
    embeddings: dict[str, dict[str, np.ndarray]] = {}
    for word, names in bundled_names(tensors).items():
        embeddings[word] = {encoder: read_vectors(path, name, tensors[name]) for encoder, name in names.items()}
    return embeddings
