"""Embeddings that a prompt's words stand for: of textual-inversion files, and of LoRAs that bring some along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from intarsia.checkpoints.header import read_header
from intarsia.errors import WeightsError
from intarsia.models.embedding_vectors import read_vectors
from intarsia.models.lora_embeddings import bundled_embeddings
from intarsia.printable import printable
from intarsia.prompt_words import PromptWords

__all__ = ["EmbeddingFile", "embedding_words", "read_embedding"]

EmbeddingFile = tuple[tuple[str, ...], Path]
"""Words, and the file of the embedding that each of them stands for."""

# Text encoders in the order of a model's towers; the first one of a file that does not say which.
_ENCODERS = ("clip_l", "clip_g")
# A text encoder's input without start and end.
_MOST_VECTORS = 75
# By the widths of the encoders' vectors.
_VERSIONS = {(768,): "Stable Diffusion 1", (1024,): "Stable Diffusion 2", (768, 1280): "SDXL"}


def read_embedding(path: Path) -> dict[str, np.ndarray]:
    """The vectors of a textual-inversion file, float32 ``[m, D]`` by encoder: ``clip_l``, for SDXL also ``clip_g``.

    A file has ``emb_params`` (AUTOMATIC1111's), ``<token>`` (diffusers'), or a tensor for each encoder.

    Raises:
        WeightsError: the file is unreadable, or has something else.
    """
    tensors = read_header(path).tensors
    if set(tensors) == set(_ENCODERS):
        return {name: read_vectors(path, name, tensor, may_be_row=True) for name, tensor in tensors.items()}
    if len(tensors) != 1:
        raise WeightsError(f"{path}: a textual-inversion embedding has one tensor, or clip_l and clip_g")
    [(name, tensor)] = tensors.items()
    return {_ENCODERS[0]: read_vectors(path, name, tensor, may_be_row=True)}


def embedding_words(
    files: Sequence[EmbeddingFile], loras: Sequence[Path], widths: Sequence[int]
) -> tuple[list[PromptWords[np.ndarray]], tuple[str, ...]]:
    """The words of embeddings with their vectors, for each text encoder of a model; and a sentence on each left out.

    What a LoRA brings along for other text encoders is left out, like its layers for other networks.

    Args:
        files: textual-inversion files.
        loras: files that may have embeddings of their own, under the words that they were trained with.
        widths: of the encoders' vectors.

    Raises:
        WeightsError: a file that is unreadable or for another version of Stable Diffusion.
    """
    found: dict[str, Mapping[str, np.ndarray]] = {}
    notes = []
    for path in loras:
        for word, vectors in _bundled(path).items():
            if _widths(vectors) == tuple(widths):
                _check(path, vectors, widths)
                found[word] = vectors
            else:
                notes.append(f"LoRA {path.name}: its embedding {printable(word)} was left out: it is for another model")

    for words, path in files:
        vectors = read_embedding(path)
        _check(path, vectors, widths)
        found |= dict.fromkeys(words, vectors)

    by_tower = []
    for encoder in _ENCODERS[: len(widths)]:
        by_tower.append(PromptWords({word: vectors[encoder] for word, vectors in found.items()}))
    return by_tower, tuple(notes)


def _bundled(path: Path) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Of a LoRA in one file; a folder of PEFT has none."""
    return {} if path.is_dir() else bundled_embeddings(path)


def _widths(vectors: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Of the encoders' vectors, in the order of the encoders."""
    return tuple(vectors[encoder].shape[1] for encoder in _ENCODERS if encoder in vectors)


def _check(path: Path, vectors: Mapping[str, np.ndarray], widths: Sequence[int]) -> None:
    """Vectors of a width for each encoder, equally many, and not more than a chunk of a prompt holds."""
    found = _widths(vectors)
    if found != tuple(widths):
        version = _VERSIONS.get(found, "another model")
        raise WeightsError(
            f"{path}: this embedding is for {version}: its vectors have {_listed(found)} numbers, "
            f"those of the model's tokens {_listed(widths)}"
        )
    counts = {len(values) for values in vectors.values()}
    if len(counts) > 1:
        raise WeightsError(f"{path}: must have equally many vectors for both text encoders, not {sorted(counts)}")
    if max(counts) > _MOST_VECTORS:
        raise WeightsError(f"{path}: has {max(counts)} vectors, more than the {_MOST_VECTORS} tokens of a prompt")


def _listed(widths: Sequence[int]) -> str:
    return " and ".join(map(str, widths))
