"""Prompts encoded once per session: what cross-attention and the added conditioning take of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intarsia.backends.prompt_reading import PromptKey, lengthened
from intarsia.backends.torch.encoder_memory import EncoderMemory
from intarsia.lru import Lru
from intarsia.models.loading import Parts
from intarsia.models.prompt_chunks import tower_chunks
from intarsia.models.prompt_embeddings import embedding_words
from intarsia.models.text import TextEncoding

__all__ = ["EncodedPrompt", "PromptCache"]

# Prompts kept per session, and the device memory that they may take: in half precision the keys and values of one
# prompt are 3 MB for SD1.5 and 26 MB for SDXL.
_PROMPTS, _PROMPT_BYTES = 64, 256 * 2**20


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt on the device.

    Attributes:
        cross_kv: ``[1, n, K]``, keys and values of all cross-attentions.
        pooled: ``[1, P]``, pooled text for networks with added conditioning, else None.
    """

    cross_kv: Tensor
    pooled: Tensor | None
    warnings: tuple[str, ...]


class PromptCache:
    """Encodes prompts and keeps the most recently used of them.

    Args:
        dtype: of the UNet.
        memory: where the text encoders are between prompts.
    """

    def __init__(self, parts: Parts, dtype: torch.dtype, memory: EncoderMemory) -> None:
        self._parts = parts
        self._memory = memory
        self._dtype = dtype
        self._prompts: Lru[PromptKey, EncodedPrompt] = Lru(None)

    def get(self, key: PromptKey) -> EncodedPrompt:
        """One prompt; encoded by itself, so always the same bits."""
        prompt = self._prompts.get(key)
        if prompt is None:
            prompt = self._encode(key)
            self._prompts.put(key, prompt)
            self._evict_surplus()
        return prompt

    def get_all(self, keys: Sequence[PromptKey]) -> list[EncodedPrompt]:
        """The prompts of all branches, with equally many tokens: the encoded empty prompt follows a shorter one."""
        return lengthened(keys, self.get, lambda prompt: prompt.cross_kv.shape[1], _followed_by)

    def renew(self, parts: Parts) -> None:
        """Take the networks with other LoRAs in them, and forget what was encoded by those before."""
        self._parts = parts
        self._prompts.clear()

    def _encode(self, key: PromptKey) -> EncodedPrompt:
        with self._memory.present():
            encoding = self._text(key)
        if key.negative and not key.text and self._parts.zero_empty_prompt:
            encoding = encoding.zeros()

        hidden = encoding.hidden.to(self._dtype)
        cross_kv = self._parts.unet.cross_kv(hidden)
        return EncodedPrompt(cross_kv, encoding.pooled, encoding.warnings)

    def _text(self, key: PromptKey) -> TextEncoding:
        text = self._parts.text
        loras = [file.path for file in self._parts.additions.files]
        if key.syntax == "plain" and not key.embeddings and not loras:
            return text.encode([key.text], key.clip_skip)

        words, notes = embedding_words(key.files, loras, [tower.width for tower in text.towers])
        tokens = [tower.tokens for tower in text.towers]
        chunks, cut = tower_chunks(key.text, key.syntax, tokens, words)
        return replace(text.encode_chunks(chunks, key.clip_skip), warnings=(*notes, *cut))

    def _evict_surplus(self) -> None:
        """Evict the least recently used, but never the last one."""
        while len(self._prompts) > 1 and self._is_over_limits():
            self._prompts.evict(next(iter(self._prompts)))

    def _is_over_limits(self) -> bool:
        nbytes = sum(prompt.cross_kv.nbytes for prompt in self._prompts.values())
        return len(self._prompts) > _PROMPTS or nbytes > _PROMPT_BYTES


def _followed_by(prompt: EncodedPrompt, other: EncodedPrompt, times: int) -> EncodedPrompt:
    return replace(prompt, cross_kv=torch.cat([prompt.cross_kv, *[other.cross_kv] * times], dim=1))
