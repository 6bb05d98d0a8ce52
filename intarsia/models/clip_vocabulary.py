"""CLIP's vocabulary as it ships with the package, for checkpoints, which hold text encoders but no tokenizer.

The merges are those of github.com/openai/CLIP (MIT, see NOTICE), brought here by ``tools/clip_vocabulary.py``. The
vocabulary follows from them: each byte, each byte at the end of a word, what each merge makes, and two marks.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from intarsia.checkpoints.stored import Padding
from intarsia.errors import WeightsError, one_line
from intarsia.models.tokens import ClipTokens, load_tokens, make_tokens

__all__ = ["MERGES", "MERGES_FILE", "clip_tokens", "clip_vocabulary", "tokens_of"]

MERGES = 49152 - 256 - 2
"""Merges that CLIP was trained with; its vocabulary has 512 bytes and two marks more."""

MERGES_FILE = Path(__file__).resolve().parent.parent / "assets" / "clip" / "merges.txt.gz"

POSITIONS = 77
"""Tokens that CLIP's text encoders take."""

_WORD_END = "</w>"
_MARKS = ("<|startoftext|>", "<|endoftext|>")


@lru_cache(maxsize=4)
def clip_tokens(padding: Padding, limit: int = POSITIONS) -> ClipTokens:
    """CLIP's tokenizer, as diffusers' folders of these models have it.

    Args:
        limit: tokens of a prompt, start and end included.

    Raises:
        WeightsError: the packaged file is missing or damaged.
    """
    vocabulary, merges = clip_vocabulary()
    return make_tokens(vocabulary, merges, pad=padding, limit=limit)


def tokens_of(tokenizer: Path | Padding, shape: Mapping[str, Any]) -> ClipTokens:
    """The tokenizer of a text encoder.

    Args:
        tokenizer: its folder, or what CLIP's own fills prompts up with.
        shape: of the encoder, as :func:`intarsia.models.clip_config.text_shape` has it.

    Raises:
        WeightsError: the folder's is unreadable, or either has tokens that the encoder does not.
    """
    positions, rows = shape["max_position_embeddings"], shape["vocab_size"]
    if isinstance(tokenizer, Path):
        return load_tokens(tokenizer, positions, rows)
    tokens = clip_tokens(tokenizer, positions)
    if tokens.end >= rows:
        raise WeightsError(
            f"the text encoder has {rows} tokens, fewer than CLIP: it needs its own tokenizer (models add --tokenizer)"
        )
    return tokens


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Numbers by token, as in ``vocab.json``, and the merges in their order."""
    merges = _merges()
    letters = _letters()
    words = [*letters, *(letter + _WORD_END for letter in letters)]
    words += [one + other for one, other in merges]
    words += _MARKS
    return {word: number for number, word in enumerate(words)}, merges


def _merges() -> list[tuple[str, str]]:
    try:
        text = gzip.decompress(MERGES_FILE.read_bytes()).decode()
    except (OSError, EOFError, ValueError) as exc:
        raise WeightsError(f"{MERGES_FILE}: part of the package, cannot be read: {one_line(exc)}") from exc

    merges = []
    for line in text.splitlines():
        one, other = line.split(" ")
        merges.append((one, other))
    if len(merges) != MERGES:
        raise WeightsError(f"{MERGES_FILE}: part of the package, has {len(merges)} merges, not {MERGES}")
    return merges


def _letters() -> list[str]:
    """A printable character for each byte, in CLIP's order: printable bytes as they are, then all others."""
    alphabet = sorted(ByteLevel.alphabet())
    as_they_are = [letter for letter in alphabet if ord(letter) < 256]
    others = [letter for letter in alphabet if ord(letter) >= 256]
    return as_they_are + others
