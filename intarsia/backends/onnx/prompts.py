"""Prompts on ONNX Runtime: tokens, text encoders, and the network's keys and values of what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
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

    @property
    def length(self) -> int:
        """Its tokens."""
        return int(self.cross_kv.shape[1])


@dataclass(frozen=True, eq=False)
class _Read:
    """A prompt as the text encoders take it.

    Attributes:
        chunks: for each text encoder, equally many.
        warnings: what was cut off.
    """

    chunks: list[list[Chunk]]
    warnings: tuple[str, ...]

    @property
    def length(self) -> int:
        """Its tokens, with start, end and padding of each chunk."""
        return sum(chunk.ids.shape[1] for chunk in self.chunks[0])


@dataclass(frozen=True, eq=False)
class _TowerOutput:
    """What one text encoder gives for a prompt: ``[1, n, D]``, and ``[1, P]`` where it projects."""

    hidden: Floats
    pooled: Floats | None


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
        found = {key: prompt for key in keys if (prompt := self._encoded.get(key)) is not None}
        read = {key: self._read(key) for key in keys if key not in found}

        lengths = [(found[key] if key in found else read[key]).length for key in keys]
        for key, length in zip(keys, lengths, strict=True):
            if length == max(lengths) or key.empty in found or key.empty in read:
                continue
            empty = self._encoded.get(key.empty)
            if empty is not None:
                found[key.empty] = empty
            else:
                read[key.empty] = self._read(key.empty)

        found |= self._encode(read)
        return lengthened(keys, found.__getitem__, lambda prompt: prompt.length, _followed_by)

    def _encode(self, prompts: Mapping[PromptKey, _Read]) -> dict[PromptKey, EncodedPrompt]:
        """Encode some prompts together, and keep them.

        One graph after the other does its part for all of them, so that of graphs that are opened for each use one is
        open at a time.
        """
        if not prompts:
            return {}
        outputs: dict[PromptKey, list[_TowerOutput]] = {key: [] for key in prompts}
        for place, tower in enumerate(self._towers):
            with tower.held():
                for key, prompt in prompts.items():
                    outputs[key].append(tower.encode(prompt.chunks[place], key.clip_skip))

        encoded: dict[PromptKey, EncodedPrompt] = {}
        with held(self._cross_kv):
            for key, prompt in prompts.items():
                hidden = np.concatenate([output.hidden for output in outputs[key]], axis=2)
                pooled = next((output.pooled for output in outputs[key] if output.pooled is not None), None)
                if key.negative and not key.text and self._zero_empty_prompt:
                    hidden = np.zeros_like(hidden)
                    pooled = None if pooled is None else np.zeros_like(pooled)
                (cross_kv,) = self._cross_kv.run(None, {"hidden": hidden})
                encoded[key] = EncodedPrompt(cross_kv, pooled, prompt.warnings)

        for key, result in encoded.items():
            self._encoded.put(key, result)
            self._evict_surplus()
        return encoded

    def _evict_surplus(self) -> None:
        """Evict the least recently used, but never the last one: a long prompt takes as much as many short ones."""
        while len(self._encoded) > 1 and sum(each.cross_kv.nbytes for each in self._encoded.values()) > _PROMPT_BYTES:
            self._encoded.evict(next(iter(self._encoded)))

    def _read(self, key: PromptKey) -> _Read:
        if not 1 <= key.clip_skip <= self._clip_skip_limit:
            raise RequestError("clip_skip", key.clip_skip, f"between 1 and {self._clip_skip_limit} for this model")

        words, notes = embedding_words(key.files, self._loras, [tower.width for tower in self._towers])
        tokens = [tower.tokens for tower in self._towers]
        chunks, cut = tower_chunks(key.text, key.syntax, tokens, words)
        return _Read(chunks, (*notes, *cut))


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

    def encode(self, chunks: Sequence[Chunk], clip_skip: int) -> _TowerOutput:
        """All chunks of a prompt, one behind the other; the first one's pooled text is the prompt's."""
        outputs = [self._run(chunk, clip_skip) for chunk in chunks]
        weighted = [_weighted(output[0], chunk) for output, chunk in zip(outputs, chunks, strict=True)]
        pooled = outputs[0][1] if len(outputs[0]) > 1 else None
        return _TowerOutput(np.concatenate(weighted, axis=1), pooled)

    def _run(self, chunk: Chunk, clip_skip: int) -> list[Floats]:
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
