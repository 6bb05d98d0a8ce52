"""Which pixels of a mask file are repainted: by its brightness, or by its transparency.

Two conventions are in use. *White is repainted*, seen on black: the level of a pixel is its brightness times
its alpha, so that a half-opaque white stroke is half a stroke. And *transparent is repainted*: the subject was
erased from a layer, or from a copy of the image. What is stored under a fully transparent pixel counts in neither.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intarsia.canvas.options import MaskSource
from intarsia.errors import RequestError
from intarsia.images.fill import FAINT
from intarsia.images.rgb_image import RgbImage

__all__ = ["THRESHOLD", "binarize", "gray_levels", "is_partly_transparent", "why_empty"]

Mask = NDArray[np.bool_]
Levels = NDArray[np.uint8]

THRESHOLD = 128
"""Levels from here on are repainted; alpha below it is transparent."""

# Where black and white were mixed without regard to alpha, as along the rim of an erased part, brightness and alpha
# add up to 255: a pixel this bright and at least FAINT opaque is none of these, but part of a white stroke.
_WHITE = 256 - FAINT


def binarize(
    mask: RgbImage, source: MaskSource = "auto", invert: bool = False, is_init_image: bool = False
) -> tuple[Mask, tuple[str, ...]]:
    """The pixels to repaint, bool ``[H, W]``, and a warning where the file's two readings differ.

    ``auto`` reads the brightness, but the transparency where something is transparent, something is not, and the
    visible part is no drawing in white: dark all over, of many tones (an image out of which something was
    erased), or ``init_image`` itself.

    Raises:
        RequestError: ``alpha`` was asked for and the mask has none.
    """
    _check_alpha(mask, source)
    bright = _levels(mask) >= THRESHOLD
    clear = _clear(mask)
    if clear is None:
        bright, notes = _or_colored(bright, mask)
        on = ~bright if invert else bright
        return on, notes

    is_open = source == "auto" and _is_partly(clear)
    by_alpha = _reads_alpha(mask, source, bright, clear, is_init_image)
    on, other = bright, clear
    if by_alpha:
        on, other = clear, bright
    if invert:
        on, other = ~on, ~other

    if not is_open or np.array_equal(on, other):
        return on, ()
    return on, (_both_readings(on, other, by_alpha),)


def gray_levels(mask: RgbImage, source: MaskSource, invert: bool, is_init_image: bool) -> Levels:
    """A mask's levels, uint8 ``[H, W]``, 255 where it is to be repainted; of what :func:`binarize` reads.

    Raises:
        RequestError: ``alpha`` was asked for and the mask has none.
    """
    _check_alpha(mask, source)
    levels = _levels(mask)
    clear = _clear(mask)
    if mask.alpha is not None and clear is not None:
        by_alpha = _reads_alpha(mask, source, levels >= THRESHOLD, clear, is_init_image)
        levels = 255 - mask.alpha if by_alpha else levels
    return 255 - levels if invert else levels


def is_partly_transparent(mask: RgbImage) -> bool:
    """Whether some of a mask is transparent, and some is not: then it has two readings."""
    clear = _clear(mask)
    return clear is not None and _is_partly(clear)


def _check_alpha(mask: RgbImage, source: MaskSource) -> None:
    if source == "alpha" and mask.alpha is None:
        raise RequestError("mask_source", source, "luma or auto: mask_image has no alpha channel")


def _is_partly(clear: Mask) -> bool:
    """Whether some of the mask is transparent, and some is not: then both readings are possible."""
    return bool(clear.any()) and not clear.all()


def _reads_alpha(mask: RgbImage, source: MaskSource, bright: Mask, clear: Mask, is_init_image: bool) -> bool:
    if source != "auto":
        return source == "alpha"
    return _is_partly(clear) and (is_init_image or _is_stencil(mask, bright))


def _or_colored(bright: Mask, mask: RgbImage) -> tuple[Mask, tuple[str, ...]]:
    """The bright pixels, or where there is none those of a bright color: strokes in red or blue, which are dark."""
    if bright.any():
        return bright, ()
    colored = mask.rgb.max(axis=2) >= THRESHOLD
    if not colored.any():
        return bright, ()
    return colored, ("mask_image has strokes in a dark color and nothing bright: its brightest channel was read",)


def why_empty(mask: RgbImage, source: MaskSource, invert: bool) -> str:
    """Why no pixel of ``mask`` is to be repainted, and which setting would change that."""
    if invert:
        return "inverted, no pixel of it is to be repainted"

    levels = _levels(mask)
    if source == "alpha":
        hint = _hint("luma", "bright", levels >= THRESHOLD)
        return f"no pixel of it is transparent (alpha below {THRESHOLD} is repainted){hint}"

    clear = _clear(mask)
    hint = ""
    if clear is not None:
        hint = _hint("alpha", "transparent", clear)
    if mask.alpha is not None and not mask.alpha.any():
        return f"it is fully transparent{hint}"

    brightest = int(levels.max())
    brightest_stored = int(mask.gray.max())
    seen = ", seen on black," if brightest_stored > brightest else ""
    return f"its brightest pixel{seen} is {brightest}, and {THRESHOLD} and above is repainted{hint}"


def _levels(mask: RgbImage) -> Levels:
    """Brightness as seen on black; an alpha that is the same all over, but for 0, is a layer's opacity and left out."""
    alpha = mask.alpha
    if alpha is None:
        return mask.gray
    opacity = alpha.flat[0]
    if opacity and (alpha == opacity).all():
        return mask.gray

    # 255 times the level, in integers: adding 127 rounds the division.
    product = mask.gray.astype(np.uint16) * alpha
    levels: Levels = ((product + 127) // 255).astype(np.uint8)
    return levels


def _clear(mask: RgbImage) -> Mask | None:
    """The transparent pixels; None where the mask has no alpha."""
    if mask.alpha is None:
        return None
    return mask.alpha < THRESHOLD


def _is_stencil(mask: RgbImage, bright: Mask) -> bool:
    """Whether the visible part of a mask with alpha is no drawing in white: dark, or an image of many tones."""
    gray, alpha = mask.gray, mask.alpha
    assert alpha is not None

    if not bright.any():
        white_strokes = (gray >= _WHITE) & (alpha >= FAINT)
        return not white_strokes.any()

    weights = alpha.ravel()
    tones = np.bincount(gray.ravel(), weights=weights, minlength=256)
    two_commonest = np.sort(tones)[-2:].sum()
    return bool(2 * two_commonest < tones.sum())


def _both_readings(on: Mask, other: Mask, by_alpha: bool) -> str:
    taken, left, switch = "brightness", "transparency", "alpha"
    if by_alpha:
        taken, left, switch = "transparency", "brightness", "luma"
    return (
        f"mask_image can be read by its brightness (white is repainted) and by its transparency (transparent is "
        f"repainted), which differ: its {taken} was used and {_share(on)} of it is repainted; its {left} would repaint "
        f"{_share(other)} (mask_source {switch!r}), and invert_mask repaints the rest"
    )


def _hint(source: str, kind: str, on: Mask) -> str:
    if not on.any():
        return ""
    return f"; mask_source {source!r} repaints its {kind} pixels, {_share(on)} of it"


def _share(on: Mask) -> str:
    """Per cent of a mask; never 0 nor 100 for what is neither."""
    share = float(on.mean())
    if 0 < share < 0.01:
        return "less than 1%"
    if 0.99 < share < 1:
        return "over 99%"
    return f"{share:.0%}"
