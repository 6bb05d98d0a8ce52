"""Prompts on ONNX Runtime: tokens, text encoders, and the network's keys and values of what they give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from intarsia.backends.onnx.model_graphs import ModelGraphs
from intarsia.backends.onnx.state import Floats
from intarsia.errors import RequestError
from intarsia.lru import Lru

__all__ = ["EncodedPrompt", "PromptEncoder"]

# Encoded prompts kept per session, as in the torch backend.
_PROMPTS = 64


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
    """

    def __init__(self, graphs: ModelGraphs, open_graph: Callable[[str], ort.InferenceSession]) -> None:
        towers = graphs.facts["towers"]
        self._clip_skip_limit = min(tower["layers"] for tower in towers)
        self._zero_empty_prompt = bool(graphs.facts["zero_empty_prompt"])
        self._tokens = [graphs.tokens(tower["graph"]) for tower in towers]
        self._texts = [open_graph(tower["graph"]) for tower in towers]
        self._cross_kv = open_graph("unet_context")
        self._encoded: Lru[tuple[str, int, bool], EncodedPrompt] = Lru(_PROMPTS)

    def encode(self, prompt: str, clip_skip: int, *, negative: bool = False) -> EncodedPrompt:
        """One prompt, from the cache where it is there.

        Raises:
            RequestError: a ``clip_skip`` that the text encoders do not have.
        """
        key = (prompt, clip_skip, negative)
        encoded = self._encoded.get(key)
        if encoded is not None:
            return encoded

        text = self._read(prompt, clip_skip)
        if negative and not prompt and self._zero_empty_prompt:
            text = text.zeros()

        (cross_kv,) = self._cross_kv.run(None, {"hidden": text.hidden})
        encoded = EncodedPrompt(cross_kv, text.pooled, text.warnings)
        self._encoded.put(key, encoded)
        return encoded

    def _read(self, prompt: str, clip_skip: int) -> _Text:
        if not 1 <= clip_skip <= self._clip_skip_limit:
            raise RequestError("clip_skip", clip_skip, f"between 1 and {self._clip_skip_limit} for this model")

        skip = np.array([clip_skip], np.int64)
        hidden: list[Floats] = []
        pooled: Floats | None = None
        warnings: list[str] = []

        for tokens, session in zip(self._tokens, self._texts, strict=True):
            ids, cut = tokens.encode(prompt)
            warnings += cut
            outputs = session.run(None, {"ids": ids, "skip": skip})
            hidden.append(outputs[0])
            if pooled is None and len(outputs) > 1:
                pooled = outputs[1]

        side_by_side = np.concatenate(hidden, axis=2)
        different_warnings = tuple(dict.fromkeys(warnings))
        return _Text(side_by_side, pooled, different_warnings)
