"""Prompts encoded once per session: what cross-attention and the added conditioning take of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia.backends.torch.text_memory import TextMemory
from intarsia.lru import Lru
from intarsia.models.loading import Parts

__all__ = ["EncodedPrompt", "PromptCache"]

# Prompts kept per session, and the device memory that they may take: in half precision the keys and values of one
# prompt are 3 MB for SD1.5 and 26 MB for SDXL.
_PROMPTS, _PROMPT_BYTES = 64, 256 * 2**20

_Key = tuple[str, int, bool]


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

    def __init__(self, parts: Parts, dtype: torch.dtype, memory: TextMemory) -> None:
        self._parts = parts
        self._memory = memory
        self._dtype = dtype
        self._prompts: Lru[_Key, EncodedPrompt] = Lru(None)

    def get(self, text: str, clip_skip: int, *, negative: bool) -> EncodedPrompt:
        """One prompt; encoded by itself, so always the same bits."""
        key = (text, clip_skip, negative)
        prompt = self._prompts.get(key)
        if prompt is None:
            prompt = self._encode(text, clip_skip, negative)
            self._prompts.put(key, prompt)
            self._evict_surplus()
        return prompt

    def clear(self) -> None:
        """Forget all of them."""
        self._prompts.clear()

    def _encode(self, text: str, clip_skip: int, negative: bool) -> EncodedPrompt:
        with self._memory.present():
            encoding = self._parts.text.encode([text], clip_skip)
        if negative and not text and self._parts.zero_empty_prompt:
            encoding = encoding.zeros()

        hidden = encoding.hidden.to(self._dtype)
        cross_kv = self._parts.unet.cross_kv(hidden)
        return EncodedPrompt(cross_kv, encoding.pooled, encoding.warnings)

    def _evict_surplus(self) -> None:
        """Evict the least recently used, but never the last one."""
        while len(self._prompts) > 1 and self._is_over_limits():
            self._prompts.evict(next(iter(self._prompts)))

    def _is_over_limits(self) -> bool:
        nbytes = sum(prompt.cross_kv.nbytes for prompt in self._prompts.values())
        return len(self._prompts) > _PROMPTS or nbytes > _PROMPT_BYTES
