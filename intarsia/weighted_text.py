"""Prompts with weights, as they are written for AUTOMATIC1111's web UI and the tools that follow it.

``(x)`` counts 1.1 times, ``[x]`` 1/1.1 times, ``(x:1.3)`` 1.3 times, and brackets in brackets multiply. ``BREAK``
begins a new chunk of tokens. A backslash before a bracket or before another backslash makes it a letter like any other.

Any text has a reading. What opens a bracket that is not closed counts to the end of the text; what closes a bracket
that was not opened is a letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["MOST_WEIGHT", "SYNTAXES", "Piece", "PromptSyntax", "read_weighted"]

PromptSyntax = Literal["weighted", "plain"]
"""How prompts are read: with weights, in chunks, or each letter as it is, up to the text encoder's last token."""

SYNTAXES: tuple[PromptSyntax, ...] = get_args(PromptSyntax)

MOST_WEIGHT = 100.0
"""Weights are between this and its negative, so that no encoding overflows half precision."""

_STEP = 1.1
# Products of nested brackets stay finite, so that another bracket can bring them back.
_MOST_PRODUCT = 1e12
# Products like 1.1 · (1 / 1.1) are 1.
_DIGITS = 9

_TOKEN = re.compile(
    r"""\\(?P<escaped>[\\()\[\]])
    |   (?P<open>[(\[])
    |   :\s*(?P<weight>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\)
    |   (?P<close>[)\]])
    |   [^\\()\[\]:]+
    |   [\\:]""",
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b")


@dataclass(frozen=True)
class Piece:
    """Text, and how many times it counts."""

    text: str
    weight: float = 1.0


@dataclass(eq=False)
class _Token:
    """A part of the text: of ``(``, ``[``, ``)``, ``]`` or "", which is text.

    Attributes:
        factor: of an opening bracket, what its inside is multiplied by.
    """

    text: str
    kind: str = ""
    factor: float = 1.0


def read_weighted(text: str) -> tuple[tuple[Piece, ...], ...]:
    """Pieces that are not empty, in sections between the words ``BREAK``; without the word there is one section.

    It takes any text, in time that grows with its length alone.
    """
    sections: list[list[Piece]] = [[]]
    for piece in _joined(_weighted(_tokens(text))):
        texts = _BREAK.split(piece.text)
        for place, part in enumerate(texts):
            if place:
                sections.append([])
                part = part.lstrip()
            if place < len(texts) - 1:
                part = part.rstrip()
            if part:
                sections[-1].append(Piece(part, piece.weight))
    return tuple(tuple(section) for section in sections)


def _tokens(text: str) -> list[_Token]:
    """The text in parts; brackets that do not belong to another one are text, unless they open."""
    tokens: list[_Token] = []
    opened: dict[str, list[_Token]] = {"(": [], "[": []}
    for match in _TOKEN.finditer(text):
        opening, closing = match["open"], match["close"]
        if opening:
            token = _Token(opening, opening, _STEP if opening == "(" else 1 / _STEP)
            opened[opening].append(token)
            tokens.append(token)
            continue

        partner = "[" if closing == "]" else "("
        is_closing = bool(closing or match["weight"]) and bool(opened[partner])
        if not is_closing:
            tokens.append(_Token(match["escaped"] or match[0]))
            continue
        bracket = opened[partner].pop()
        if match["weight"]:
            bracket.factor = _clamped(float(match["weight"]), MOST_WEIGHT)
        tokens.append(_Token(match[0], ")" if partner == "(" else "]"))
    return tokens


def _weighted(tokens: list[_Token]) -> Iterator[Piece]:
    """Each text with the product of the brackets around it. Round and square ones may overlap."""
    products = {"(": [1.0], "[": [1.0]}
    for token in tokens:
        if token.kind in products:
            stack = products[token.kind]
            stack.append(_clamped(stack[-1] * token.factor, _MOST_PRODUCT))
        elif token.kind:
            products["(" if token.kind == ")" else "["].pop()
        else:
            product = products["("][-1] * products["["][-1]
            yield Piece(token.text, round(_clamped(product, MOST_WEIGHT), _DIGITS))


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Neighbors of one weight as one piece, so that a word is not torn at a colon."""
    texts: list[str] = []
    weight = 1.0
    for piece in pieces:
        if texts and piece.weight != weight:
            yield Piece("".join(texts), weight)
            texts = []
        texts.append(piece.text)
        weight = piece.weight
    if texts:
        yield Piece("".join(texts), weight)


def _clamped(value: float, most: float) -> float:
    return max(-most, min(most, value))
