"""Labels of a grid: any text in the letters of the font that Pillow ships, on few lines of bounded width."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from PIL import ImageFont

from intarsia.printable import printable

__all__ = ["Font", "distinct", "drawable", "fitted", "font"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# A character that the font does not have, and what stands for it.
_NO_CHARACTER, _SUBSTITUTE = "\uffff", "?"
_LONGEST = 2000


@lru_cache(maxsize=16)
def font(size: int) -> Font:
    """Pillow's own font, of that size in pixels."""
    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """The text on one line in the font's letters: accents are left out, "?" stands for what the font does not have."""
    text = printable(text[:_LONGEST])
    return "".join(_drawable(character) for character in text)


def fitted(text: str, font: Font, width: int, lines: int) -> list[str]:
    """The text on at most so many lines of at most that width; its middle is cut out where it is too long.

    What stands at the end of a prompt, a path or a name tells it from its neighbors as often as what stands at its
    beginning.
    """
    text = drawable(text)
    whole = _wrapped(text, font, width)
    if len(whole) <= lines:
        return whole

    kept, too_many = 0, len(text)
    while too_many - kept > 1:
        middle = (kept + too_many) // 2
        if len(_wrapped(_cut(text, middle), font, width)) <= lines:
            kept = middle
        else:
            too_many = middle
    return _wrapped(_cut(text, kept), font, width)[:lines]


def distinct(texts: Sequence[str], font: Font, width: int, lines: int) -> list[list[str]]:
    """:func:`fitted` of several texts that label different things: numbered, where two would look the same."""
    labels = [fitted(text, font, width, lines) for text in texts]
    if len({tuple(label) for label in labels}) == len(labels):
        return labels
    return [fitted(f"{number}: {text}", font, width, lines) for number, text in enumerate(texts, 1)]


def _cut(text: str, kept: int) -> str:
    """So many of a text's characters, three from its beginning to two from its end."""
    end = kept * 2 // 5
    return f"{text[: kept - end].rstrip()}…{text[len(text) - end :].lstrip()}"


def _wrapped(text: str, font: Font, width: int) -> list[str]:
    """Lines that break between words, and within a word that is wider than a line."""
    lines: list[str] = []
    line = ""
    for word in _words(text, font, width):
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
    return [*lines, line]


def _words(text: str, font: Font, width: int) -> Iterator[str]:
    """Words, those that are wider than a line in parts; a part has a character at least."""
    for word in text.split():
        while font.getlength(word) > width and len(word) > 1:
            fit = next((n for n in range(len(word) - 1, 1, -1) if font.getlength(word[:n]) <= width), 1)
            yield word[:fit]
            word = word[fit:]
        yield word


def _drawable(character: str) -> str:
    if _has(character):
        return character
    base = unicodedata.normalize("NFKD", character)
    letters = "".join(part for part in base if not unicodedata.combining(part))
    return letters if letters and all(map(_has, letters)) else _SUBSTITUTE


@lru_cache(maxsize=4096)
def _has(character: str) -> bool:
    """Whether the font has a character of its own for it: one that it has not is drawn as an empty box."""
    if character.isascii():
        return character.isprintable()
    missing = font(16).getmask(_NO_CHARACTER)
    return bytes(font(16).getmask(character)) != bytes(missing)
