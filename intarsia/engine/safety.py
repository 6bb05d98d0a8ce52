"""The safety stage: finished pictures are checked, and what is flagged is replaced whole, in every form it has.

What is put in its place is made by Pillow and numpy alone, the same bytes on every machine with the same Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

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


@dataclass(frozen=True, eq=False)
class Screened:
    """Pictures after the check.

    Attributes:
        images: as they may be shown.
        drawn: what the network drew, uint8 ``[h, w, 3]``, likewise.
        nsfw: one for each picture, True where it was flagged and replaced.
        warnings: which ones, in a sentence; empty without a finding.
    """

    images: list[Image.Image]
    drawn: list[Pixels]
    nsfw: tuple[bool, ...]
    warnings: tuple[str, ...] = ()


def screen(check: Check, action: str, images: Sequence[Image.Image], drawn: Sequence[Pixels]) -> Screened:
    """Check every picture in both its forms and replace both where either is flagged.

    The finished picture is what is shown; what the network drew, before paste-back, is what a checker was made to
    look at, and larger where only the mask's surroundings were generated.

    Args:
        check: the opened checker's; uint8 ``[h, w, 3]`` each. Transparency is left out: colours hidden by it count.
        action: a key of :data:`ACTIONS`.
        drawn: uint8 ``[h, w, 3]``, one for each of ``images``.
    """
    found = zip(check([_rgb(image) for image in images]), check(drawn), strict=True)
    nsfw = tuple(either or other for either, other in found)
    flagged = [str(number) for number, is_flagged in enumerate(nsfw, 1) if is_flagged]
    warnings = (f"the safety checker flagged picture {', '.join(flagged)} of {len(nsfw)}; {action} was applied",)
    return Screened(
        [replace(image, action) if bad else image for image, bad in zip(images, nsfw, strict=True)],
        [_rgb(replace(Image.fromarray(each), action)) if bad else each for each, bad in zip(drawn, nsfw, strict=True)],
        nsfw,
        warnings if flagged else (),
    )


def replace(picture: Image.Image, action: str) -> Image.Image:
    """An opaque RGB picture of the same size with nothing of the original in it but what ``action`` leaves.

    Raises:
        KeyError: an action that is not in :data:`ACTIONS`.
    """
    made = ACTIONS[action](Image.fromarray(_rgb(picture)))
    if "icc_profile" in picture.info:
        made.info["icc_profile"] = picture.info["icc_profile"]
    return made


def _rgb(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGB"))


def _blur(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(max(picture.size) * _COARSE))


def _pixelate(picture: Image.Image) -> Image.Image:
    block = max(picture.size) * _COARSE
    cells = (max(1, round(picture.width / block)), max(1, round(picture.height / block)))
    return picture.resize(cells, Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST)


def _black(picture: Image.Image) -> Image.Image:
    return Image.new("RGB", picture.size)


def _card(picture: Image.Image) -> Image.Image:
    """Grey, with words as large as fit."""
    card = Image.new("RGB", picture.size, _CARD)
    draw = ImageDraw.Draw(card)
    largest = ImageFont.load_default(_LARGEST_FONT)
    left, top, right, bottom = draw.multiline_textbbox((0, 0), CARD_WORDS, largest, spacing=0)
    share = min(picture.width / (right - left), picture.height / (bottom - top)) * _WRITTEN
    font = ImageFont.load_default(max(_SMALLEST_FONT, math.floor(_LARGEST_FONT * min(share, 1))))
    centre = (picture.width / 2, picture.height / 2)
    draw.multiline_text(centre, CARD_WORDS, _INK, font, anchor="mm", align="center", spacing=0)
    return card


ACTIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blur": _blur,
    "pixelate": _pixelate,
    "black": _black,
    "sensitive_content_text": _card,
}
"""What a finding does to a picture, by the names of a request's ``safety_action``."""
