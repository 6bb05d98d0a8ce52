"""Words of a prompt that stand for embeddings: ``word`` or ``embedding:word``, in any case, ``_`` and ``-`` alike."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

__all__ = ["PREFIX", "PromptWords", "explicit_words"]

PREFIX = "embedding:"

V = TypeVar("V")

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_EXPLICIT = re.compile(rf"\b{PREFIX}([^\s,:;()<>\[\]{{}}|]+)", re.IGNORECASE)


class PromptWords(Generic[V]):
    """What is found where certain words are written."""

    def __init__(self, values: Mapping[str, V]) -> None:
        self._values = {_key(word): value for word, value in values.items()}
        # the longest first, or a word that begins another one would hide it
        words = sorted(values, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, words))) if words else None

    def __bool__(self) -> bool:
        return bool(self._values)

    def split(self, text: str) -> Iterator[str | V]:
        """The text between the words, where there is any, and their values in between."""
        place = 0
        for match in self._matches(text):
            if text[place : match.start()].strip():
                yield text[place : match.start()]
            yield self._values[_key(_word(match))]
            place = match.end()
        if text[place:] and (place == 0 or text[place:].strip()):
            yield text[place:]

    def found(self, text: str) -> list[V]:
        """The values of the words in a text, each once, in their order there."""
        found = {_key(_word(match)): None for match in self._matches(text)}
        return [self._values[key] for key in found]

    def without(self, text: str) -> str:
        """The text with a blank for each word."""
        return text if self._pattern is None else self._pattern.sub(" ", text)

    def _matches(self, text: str) -> Iterator[re.Match[str]]:
        return iter(()) if self._pattern is None else self._pattern.finditer(text)


def explicit_words(text: str) -> list[str]:
    """What is written behind ``embedding:``, each once."""
    return list(dict.fromkeys(match[1] for match in _EXPLICIT.finditer(text)))


def _word(match: re.Match[str]) -> str:
    return match[0][len(PREFIX) :] if match[0].translate(_LOWER).startswith(PREFIX) else match[0]


def _key(word: str) -> str:
    ascii_lower = word.translate(_LOWER)
    return ascii_lower.replace("_", "-")


def _pattern(word: str) -> str:
    """A word that is not a part of a longer one."""
    letters = re.escape(word.replace("_", "-")).replace(r"\-", "[-_]")
    before = r"(?<![\w-])" if word[0].isalnum() else ""
    after = r"(?![\w-])" if word[-1].isalnum() else ""
    # case counts for other letters than ASCII's, of which some have several capitals
    return f"{before}(?ai:(?:{PREFIX})?{letters}){after}"
