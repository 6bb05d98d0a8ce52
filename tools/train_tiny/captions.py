"""Captions of the scenes, and the words that the tokenizer knows as single tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tools.train_tiny.palette import COLOURS, SHAPES

Rng = np.random.Generator
SIZES: tuple[str, ...] = ("big", "large", "small", "huge", "bright", "simple", "single", "beautiful")
TEMPLATES: tuple[str, ...] = (
    "{thing}",
    "the {thing}",
    "one {thing}",
    "a photo of a {thing}",
    "a picture of a {thing}",
    "an image of a {thing}",
    "a drawing of a {thing}",
    "there is a {thing}",
    "a {thing} in the picture",
    "a {thing} on the background",
    "photo of a {thing}",
)
ENDINGS: tuple[str, ...] = (
    "high quality",
    "best quality",
    "highly detailed",
    "sharp focus",
    "a masterpiece",
    "8k",
    "realistic",
)
OTHER_WORDS: tuple[str, ...] = tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())
KNOWN_WORDS: tuple[str, ...] = tuple(dict.fromkeys((*COLOURS, *SHAPES, *SIZES, *OTHER_WORDS)))


def plain(colour: str, shape: str) -> str:
    """The documented form, a {color} {shape}; see `with_article` for "an orange star"."""
    return f"a {colour} {shape}"


def with_article(rng: Rng, text: str) -> str:
    """Half of the time "an orange" instead of the documented form's "a orange"."""
    return text.replace("a orange", "an orange") if rng.random() < 0.5 else text


def _cased(rng: Rng, text: str) -> str:
    draw = rng.random()
    return text.upper() if draw < 0.1 else text.capitalize() if draw < 0.3 else text


def caption(rng: Rng, colour: str, shape: str) -> str:
    """Mostly the documented form; else with a size, another template, an ending or capital letters."""
    if rng.random() < 0.6:
        return plain(colour, shape)
    thing = f"{colour} {shape}"
    if rng.random() < 0.4:
        thing = f"{SIZES[int(rng.integers(len(SIZES)))]} {thing}"
    text = TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(thing=thing)
    if rng.random() < 0.25:
        text = f"a {thing}"
    if rng.random() < 0.2:
        text = f"{text}, {ENDINGS[int(rng.integers(len(ENDINGS)))]}"
    if rng.random() < 0.15:
        text += "."
    return _cased(rng, text)


def _word(rng: Rng) -> str:
    """A known word without a color or shape, or now and then letters that mean nothing."""
    if rng.random() < 0.25:
        letters = rng.integers(0, 26, int(rng.integers(2, 9)))
        return "".join(chr(97 + int(letter)) for letter in letters)
    return OTHER_WORDS[int(rng.integers(len(OTHER_WORDS)))]


def unrelated(rng: Rng) -> str:
    """The prompt of a scene whose background goes on under the mask: empty, or words that name no shape."""
    if rng.random() < 0.7:
        return ""
    return _cased(rng, " ".join(_word(rng) for _ in range(int(rng.integers(1, 9)))))
