"""The safety stage: finished images are checked, and what is flagged is replaced whole, in every form it has.

What is put in its place is made by Pillow and numpy alone, the same bytes on every machine with the same Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from intarsia.engine.plan import SafetyAction

__all__ = ["ACTIONS", "CARD_WORDS", "Screened", "replace", "screen"]

Pixels = NDArray[np.uint8]
Check = Callable[[Sequence[Pixels]], list[bool]]

CARD_WORDS = "Sensitive\ncontent"

# Of the longer side: the standard deviation of the blur, and the side of a block. Either leaves about as much as
# 16 squares along that side hold.
_COARSE = 1 / 16
_CARD, _INK = (128, 128, 128), (235, 235, 235)
_WRITTEN = 0.8  # of the card, at most, is covered by the words
_LARGEST_FONT, _SMALLEST_FONT = 400, 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Screened:
    """Images after the check.

    Attributes:
        images: as they may be shown.
        drawn: what the network drew, uint8 ``[h, w, 3]``, likewise.
        nsfw: one for each image, True where it was flagged and replaced.
        warnings: which ones, in a sentence; empty without a finding.
    """

    images: list[Image.Image]
    drawn: list[Pixels]
    nsfw: tuple[bool, ...]
    warnings: tuple[str, ...] = ()


def screen(check: Check, action: SafetyAction, images: Sequence[Image.Image], drawn: Sequence[Pixels]) -> Screened:
    """Check every image in both its forms and replace both where either is flagged.

    The finished image is what is shown; what the network drew, before paste-back, is what a checker was made to
    look at, and larger where only the mask's surroundings were generated.

    Args:
        check: the opened checker's; uint8 ``[h, w, 3]`` each. Transparency is left out: colors hidden by it count.
        action: a key of :data:`ACTIONS`.
        drawn: uint8 ``[h, w, 3]``, one for each of ``images``.
    """
    finished_flags = check([_rgb(image) for image in images])
    drawn_flags = check(drawn)
    nsfw = tuple(finished or raw for finished, raw in zip(finished_flags, drawn_flags, strict=True))

    shown_images, shown_drawn = list(images), list(drawn)
    flagged = [index for index, is_flagged in enumerate(nsfw) if is_flagged]
    for index in flagged:
        shown_images[index] = replace(images[index], action)
        shown_drawn[index] = _rgb(replace(Image.fromarray(drawn[index]), action))
    return Screened(images=shown_images, drawn=shown_drawn, nsfw=nsfw, warnings=_warnings(flagged, len(nsfw), action))


def _warnings(flagged: Sequence[int], count: int, action: SafetyAction) -> tuple[str, ...]:
    if not flagged:
        return ()
    numbers = ", ".join(str(index + 1) for index in flagged)
    return (f"the safety checker flagged image {numbers} of {count}; {action} was applied",)


def replace(image: Image.Image, action: SafetyAction) -> Image.Image:
    """An opaque RGB image of the same size with nothing of the original in it but what ``action`` leaves.

    Raises:
        KeyError: an action that is not in :data:`ACTIONS`.
    """
    replacement = ACTIONS[action](Image.fromarray(_rgb(image)))
    if "icc_profile" in image.info:
        replacement.info["icc_profile"] = image.info["icc_profile"]
    return replacement


def _rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def _blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) * _COARSE))


def _pixelate(image: Image.Image) -> Image.Image:
    block = max(image.size) * _COARSE
    cells = (max(1, round(image.width / block)), max(1, round(image.height / block)))
    return image.resize(cells, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def _black(image: Image.Image) -> Image.Image:
    return Image.new("RGB", image.size)


def _card(image: Image.Image) -> Image.Image:
    """Gray, with words as large as fit."""
    card = Image.new("RGB", image.size, _CARD)
    draw = ImageDraw.Draw(card)

    largest = ImageFont.load_default(_LARGEST_FONT)
    left, top, right, bottom = draw.multiline_textbbox((0, 0), CARD_WORDS, largest, spacing=0)
    share = min(image.width / (right - left), image.height / (bottom - top)) * _WRITTEN
    font = ImageFont.load_default(max(_SMALLEST_FONT, math.floor(_LARGEST_FONT * min(share, 1))))
    center = (image.width / 2, image.height / 2)
    draw.multiline_text(center, CARD_WORDS, _INK, font, anchor="mm", align="center", spacing=0)
    return card


ACTIONS: dict[SafetyAction, Callable[[Image.Image], Image.Image]] = {
    "blur": _blur,
    "pixelate": _pixelate,
    "black": _black,
    "sensitive_content_text": _card,
}
"""What is done to a flagged image, by the names of a request's ``safety_action``."""
