"""How a request's prompts are read, the same on every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from intarsia.backends.protocol import Inputs, PromptEmbedding
from intarsia.models.prompt_embeddings import EmbeddingFile
from intarsia.weighted_text import PromptSyntax

__all__ = ["PromptKey", "lengthened", "prompt_keys"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PromptKey:
    """Everything that the encoding of one prompt depends on, beside the model and its LoRAs.

    Attributes:
        negative: it is the negative prompt, for which some models take zeros where it is empty.
    """

    text: str
    clip_skip: int
    negative: bool = False
    syntax: PromptSyntax = "plain"
    embeddings: tuple[PromptEmbedding, ...] = ()

    @property
    def files(self) -> list[EmbeddingFile]:
        """Words and files of the embeddings."""
        return [(embedding.words, embedding.path) for embedding in self.embeddings]

    @property
    def empty(self) -> PromptKey:
        """The empty prompt, whose encoding follows a prompt that has fewer chunks than the other one."""
        return PromptKey(text="", clip_skip=self.clip_skip, negative=self.negative and not self.text)


def prompt_keys(inputs: Inputs) -> list[PromptKey]:
    """One for each branch of guidance: unconditional, conditional; without guidance the second alone."""
    texts = [(inputs.prompt, False)]
    if inputs.guidance_scale > 1:
        texts.insert(0, (inputs.negative_prompt, True))
    return [
        PromptKey(
            text=text,
            clip_skip=inputs.clip_skip,
            negative=negative,
            syntax=inputs.prompt_syntax,
            embeddings=inputs.embeddings,
        )
        for text, negative in texts
    ]


def lengthened(
    keys: Sequence[PromptKey],
    encode: Callable[[PromptKey], T],
    length: Callable[[T], int],
    join: Callable[[T, T, int], T],
) -> list[T]:
    """The prompts of all branches, with equally many tokens: the encoded empty prompt follows a shorter one.

    Args:
        encode: one prompt, by itself.
        length: an encoded prompt's tokens, a multiple of the empty one's.
        join: an encoded prompt, and behind it another one so many times.
    """
    prompts = [encode(key) for key in keys]
    most = max(map(length, prompts))
    for place, key in enumerate(keys):
        missing = most - length(prompts[place])
        if missing:
            empty = encode(key.empty)
            prompts[place] = join(prompts[place], empty, missing // length(empty))
    return prompts
