"""How a request's prompts are read, the same on every backend."""

from __future__ import annotations

from dataclasses import dataclass

from intarsia.backends.protocol import Inputs, PromptEmbedding
from intarsia.models.prompt_embeddings import EmbeddingFile
from intarsia.weighted_text import PromptSyntax

__all__ = ["PromptKey", "prompt_keys"]


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
