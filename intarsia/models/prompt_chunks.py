"""Prompts of any length as chunks of as many tokens as a text encoder takes, each with its weight.

The order of things is AUTOMATIC1111's. A chunk holds 75 tokens between start and end. Where one is full, what follows a
comma among its last 20 tokens goes with what comes next. ``BREAK`` closes a chunk before it is full. An embedding's
vectors stand in for as many tokens and are never torn apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from intarsia.models.tokens import ClipTokens
from intarsia.prompt_words import PromptWords
from intarsia.weighted_text import Piece, PromptSyntax, read_weighted

__all__ = ["MOST_CHUNKS", "Chunk", "padding", "prompt_chunks", "tower_chunks"]

MOST_CHUNKS = 64
"""Chunks of a prompt; what is behind them is cut, and said."""

# Tokens at the end of a chunk among which a comma is looked for.
_BACK = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Chunk:
    """One input of a text encoder.

    Attributes:
        ids: int64 ``[1, limit]``.
        weights: float32 ``[limit]``; None where all are 1.
        vectors: embeddings ``[m, D]``, and the positions from which they stand in for tokens.
    """

    ids: np.ndarray
    weights: np.ndarray | None = None
    vectors: tuple[tuple[int, np.ndarray], ...] = ()


def prompt_chunks(
    text: str, syntax: PromptSyntax, tokens: ClipTokens, words: PromptWords[np.ndarray]
) -> tuple[list[Chunk], tuple[str, ...]]:
    """The chunks of a prompt, at least one, and a sentence where it was cut.

    Args:
        words: vectors ``[m, D]`` of the embeddings that this text encoder has for words in the prompt.
    """
    if syntax == "plain":
        sections: tuple[tuple[Piece, ...], ...] = ((Piece(text),),)
        most = 1
    else:
        sections, most = read_weighted(text), MOST_CHUNKS

    writer = _Writer(tokens)
    for place, section in enumerate(sections):
        if place:
            writer.close()
        for piece in section:
            _write(piece, tokens, words, writer)
    if writer.ids or not writer.chunks:
        writer.close()

    chunks, unused = writer.chunks[:most], writer.written[most:]
    if not unused:
        return chunks, ()
    count = tokens.limit if most == 1 else most * writer.size
    rest = [number for written in unused for number in written]
    return chunks, (tokens.cut(count, rest),)


def padding(tokens: ClipTokens) -> Chunk:
    """The chunk of an empty prompt."""
    ids, _ = tokens.encode("")
    return Chunk(ids=ids)


def tower_chunks(
    text: str, syntax: PromptSyntax, towers: Sequence[ClipTokens], words: Sequence[PromptWords[np.ndarray]]
) -> tuple[list[list[Chunk]], tuple[str, ...]]:
    """The chunks of a prompt for each text encoder of a model, equally many, and what there is to say about them."""
    chunks: list[list[Chunk]] = []
    warnings: list[str] = []
    for tokens, own_words in zip(towers, words, strict=True):
        own_chunks, own_warnings = prompt_chunks(text, syntax, tokens, own_words)
        chunks.append(own_chunks)
        warnings += own_warnings

    most = max(map(len, chunks))
    for tokens, own_chunks in zip(towers, chunks, strict=True):
        own_chunks += [padding(tokens)] * (most - len(own_chunks))
    return chunks, tuple(dict.fromkeys(warnings))


def _write(piece: Piece, tokens: ClipTokens, words: PromptWords[np.ndarray], writer: _Writer) -> None:
    for part in words.split(piece.text):
        if isinstance(part, str):
            for number in tokens.words(part):
                writer.add(number, piece.weight)
        else:
            writer.add_vectors(part, piece.weight)


@dataclass(eq=False)
class _Writer:
    """Chunks as they are filled.

    Attributes:
        ids, weights, vectors: of the chunk that is not closed yet.
        comma: position of its last comma; -1 without one.
        written: the ids of each chunk that is closed, without start, end and padding.
    """

    tokens: ClipTokens
    chunks: list[Chunk] = field(default_factory=list)
    written: list[list[int]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    vectors: list[tuple[int, np.ndarray]] = field(default_factory=list)
    comma: int = -1

    def __post_init__(self) -> None:
        self._comma = self.tokens.comma

    @property
    def size(self) -> int:
        """Tokens of a chunk between start and end."""
        return self.tokens.limit - 2

    def add(self, number: int, weight: float) -> None:
        is_comma = number == self._comma
        if len(self.ids) >= self.size:
            self._close_full(keeps_all=is_comma)
        if is_comma:
            self.comma = len(self.ids)
        self.ids.append(number)
        self.weights.append(weight)

    def add_vectors(self, vectors: np.ndarray, weight: float) -> None:
        """Positions for an embedding, in the next chunk where this one has too few; their ids count for nothing."""
        count = len(vectors)
        if len(self.ids) + count > self.size:
            self.close()
        self.vectors.append((len(self.ids), vectors))
        self.ids += [self._filler] * count
        self.weights += [weight] * count

    def close(self) -> None:
        """End the chunk; tokens that come now go into the next one."""
        tokens = self.tokens
        count = len(self.ids)
        padded = [tokens.start, *self.ids, tokens.end] + [tokens.pad] * (self.size - count)

        weights = None
        if any(weight != 1 for weight in self.weights):
            weights = np.ones(tokens.limit, np.float32)
            weights[1 : count + 1] = self.weights
        # positions count from the start token
        vectors = tuple((place + 1, values) for place, values in self.vectors)
        self.chunks.append(Chunk(ids=np.array([padded], np.int64), weights=weights, vectors=vectors))
        self.written.append(self.ids)
        self.ids, self.weights, self.vectors, self.comma = [], [], [], -1

    def _close_full(self, *, keeps_all: bool) -> None:
        """Close a full chunk; what is behind a comma near its end goes into the next one."""
        behind = self.comma + 1
        is_near = self.comma >= 0 and self.size - self.comma <= _BACK
        if keeps_all or not is_near:
            self.close()
            return

        ids, weights = self.ids[behind:], self.weights[behind:]
        vectors = [(place - behind, values) for place, values in self.vectors if place >= behind]
        self.ids, self.weights = self.ids[:behind], self.weights[:behind]
        self.vectors = [(place, values) for place, values in self.vectors if place < behind]
        self.close()
        self.ids, self.weights, self.vectors = ids, weights, vectors

    @property
    def _filler(self) -> int:
        """Any token but the end, which the pooled output is looked up by."""
        return 1 if self.tokens.end == 0 else 0
