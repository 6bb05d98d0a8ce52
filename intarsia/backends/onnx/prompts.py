"""Prompts on ONNX Runtime: tokens, text encoders, and the network's keys and values of what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from intarsia.backends.onnx.model_graphs import ModelGraphs
from intarsia.backends.onnx.open_sessions import held
from intarsia.backends.onnx.state import Floats
from intarsia.backends.prompt_reading import PromptKey, lengthened
from intarsia.errors import RequestError
from intarsia.lru import Lru
from intarsia.models.prompt_chunks import Chunk, tower_chunks
from intarsia.models.prompt_embeddings import embedding_words
from intarsia.models.tokens import ClipTokens

__all__ = ["CONTEXT", "EncodedPrompt", "PromptEncoder"]

CONTEXT = "unet_context"
"""The graph of the network's keys and values of encoded text."""

# Encoded prompts kept per session, and the memory that they may take, as in the torch backend.
_PROMPTS, _PROMPT_BYTES = 64, 256 * 2**20


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One encoded prompt.

    Attributes:
        cross_kv: ``[1, n, K]``, the network's cross-attention keys and values.
        pooled: ``[1, P]``; None where no text encoder has it.
        warnings: what was cut off.
    """

    cross_kv: Floats
    pooled: Floats | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Text:
    """What the text encoders give for a prompt: ``[1, n, D]``, ``[1, P]`` or None, warnings."""

    hidden: Floats
    pooled: Floats | None
    warnings: tuple[str, ...]

    def zeros(self) -> _Text:
        hidden = np.zeros_like(self.hidden)
        pooled = None if self.pooled is None else np.zeros_like(self.pooled)
        return _Text(hidden, pooled, self.warnings)


class PromptEncoder:
    """A model's tokenizers and text encoders, with a cache.

    Args:
        open_graph: opens one of the model's graphs by its name.
        loras: files of the LoRAs that are in the model, which may bring embeddings along.
    """

    def __init__(
        self,
        graphs: ModelGraphs,
        open_graph: Callable[[str], ort.InferenceSession],
        loras: Sequence[Path] = (),
    ) -> None:
        towers = graphs.facts["towers"]
        self._clip_skip_limit = min(tower["layers"] for tower in towers)
        self._zero_empty_prompt = bool(graphs.facts["zero_empty_prompt"])
        encoders = [tower["graph"] for tower in towers]
        self._towers = [
            _Tower(graphs.tokens(encoder), graphs.text_width(encoder), open_graph(encoder)) for encoder in encoders
        ]
        self._loras = loras
        self._cross_kv = open_graph(CONTEXT)
        self._encoded: Lru[PromptKey, EncodedPrompt] = Lru(_PROMPTS)

    def encode_all(self, keys: Sequence[PromptKey]) -> list[EncodedPrompt]:
        """The prompts of all branches, with equally many tokens: the encoded empty prompt follows a shorter one.

        Raises:
            RequestError: a ``clip_skip`` that the text encoders do not have.
            WeightsError: an embedding that does not fit them.
        """
        with ExitStack() as opened:
            if any(key not in self._encoded for key in keys):
                for tower in self._towers:
                    opened.enter_context(tower.held())
                opened.enter_context(held(self._cross_kv))
            return lengthened(keys, self.encode, lambda prompt: prompt.cross_kv.shape[1], _followed_by)

    def encode(self, key: PromptKey) -> EncodedPrompt:
        """One prompt, from the cache where it is there; errors as for :meth:`encode_all`."""
        encoded = self._encoded.get(key)
        if encoded is not None:
            return encoded

        text = self._read(key)
        if key.negative and not key.text and self._zero_empty_prompt:
            text = text.zeros()

        (cross_kv,) = self._cross_kv.run(None, {"hidden": text.hidden})
        encoded = EncodedPrompt(cross_kv, text.pooled, text.warnings)
        self._encoded.put(key, encoded)
        self._evict_surplus()
        return encoded

    def _evict_surplus(self) -> None:
        """Evict the least recently used, but never the last one: a long prompt takes as much as many short ones."""
        while len(self._encoded) > 1 and sum(each.cross_kv.nbytes for each in self._encoded.values()) > _PROMPT_BYTES:
            self._encoded.evict(next(iter(self._encoded)))

    def _read(self, key: PromptKey) -> _Text:
        if not 1 <= key.clip_skip <= self._clip_skip_limit:
            raise RequestError("clip_skip", key.clip_skip, f"between 1 and {self._clip_skip_limit} for this model")

        words, notes = embedding_words(key.files, self._loras, [tower.width for tower in self._towers])
        tokens = [tower.tokens for tower in self._towers]
        chunks, cut = tower_chunks(key.text, key.syntax, tokens, words)

        hidden: list[Floats] = []
        pooled: Floats | None = None
        for tower, own_chunks in zip(self._towers, chunks, strict=True):
            outputs = [tower.run(chunk, key.clip_skip) for chunk in own_chunks]
            weighted = [_weighted(output[0], chunk) for output, chunk in zip(outputs, own_chunks, strict=True)]
            hidden.append(np.concatenate(weighted, axis=1))
            if pooled is None and len(outputs[0]) > 1:
                pooled = outputs[0][1]
        return _Text(np.concatenate(hidden, axis=2), pooled, (*notes, *cut))


def _followed_by(prompt: EncodedPrompt, other: EncodedPrompt, times: int) -> EncodedPrompt:
    return replace(prompt, cross_kv=np.concatenate([prompt.cross_kv, *[other.cross_kv] * times], axis=1))


class _Tower:
    """One tokenizer with its text encoder."""

    def __init__(self, tokens: ClipTokens, width: int, session: ort.InferenceSession) -> None:
        self.tokens, self.width = tokens, width
        self._session = session

    def held(self) -> AbstractContextManager[None]:
        """Several prompts encoded within it take one encoder, where it is opened for each use."""
        return held(self._session)

    def run(self, chunk: Chunk, clip_skip: int) -> list[Floats]:
        """``[1, n, D]``, and ``[1, P]`` where it projects."""
        ids = chunk.ids.copy()
        extra: list[Floats] = []
        count = 0
        for place, vectors in chunk.vectors:
            after = count + len(vectors)
            ids[0, place : place + len(vectors)] = -1 - np.arange(count, after)
            extra.append(vectors)
            count = after

        # the graph takes one at least
        rows = np.concatenate(extra) if extra else np.zeros((1, self.width), np.float32)
        skip = np.array([clip_skip], np.int64)
        outputs: list[Floats] = self._session.run(None, {"ids": ids, "skip": skip, "extra": rows})
        return outputs


def _weighted(hidden: Floats, chunk: Chunk) -> Floats:
    """A chunk's encoding ``[1, n, D]``, each vector times its token's weight, then all of it back to its mean.

    Where weights of both signs leave no mean, it stays as it is then.
    """
    if chunk.weights is None:
        return hidden
    weighted: Floats = hidden * chunk.weights[:, None]
    mean = weighted.mean()
    if not mean:
        return weighted
    factor = hidden.mean() / mean
    return weighted * factor if np.isfinite(factor) else weighted
