"""Which masks belong to an image: those of its name without the extension, or with ``_mask`` behind it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping

from intarsia.batch.manifest.folders import SUFFIXES

__all__ = ["is_mask_name", "masks_of_images"]

# Sets of masks for LaMa number them: cat_mask001.png.
_MASK = re.compile(r"(.*[^/])[_-]mask\d{0,6}", re.IGNORECASE | re.DOTALL)

_SUFFIXED = "mask"
"""What the keys of masks with ``_mask`` in their names begin with: they are looked up last."""


def is_mask_name(name: str) -> bool:
    """Whether a file's name says that it is a mask: ``cat_mask.png``, ``cat-mask.png``, ``cat_mask001.png``."""
    return any(_MASK.fullmatch(stem) for stem in _stems(name))


def masks_of_images(images: Iterable[str], masks: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The masks of each image; there may be none, or several that fit equally well.

    A mask has its image's relative path without extensions: exactly, else composed otherwise (NFC, NFD), else in
    another case; else that path with ``_mask`` behind it, in the same order.
    """
    masks_by_key = _by_key(masks)
    return {name: _masks_of(name, masks_by_key) for name in images}


def _by_key(masks: Iterable[str]) -> dict[str, list[str]]:
    """Masks by every text that they are looked up by."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in masks:
        keys: set[str] = set()
        for stem in _stems(name):
            keys.update(_keys(stem))
            suffixed = _MASK.fullmatch(stem)
            if suffixed:
                keys.update(_SUFFIXED + key for key in _keys(suffixed[1]))
        for key in keys:
            by_key[key].append(name)
    return by_key


def _masks_of(name: str, masks_by_key: Mapping[str, list[str]]) -> tuple[str, ...]:
    exact, composed, folded = zip(*map(_keys, _stems(name)), strict=True)
    plain = (*exact, *composed, *folded)
    for key in (*plain, *(_SUFFIXED + key for key in plain)):
        if key in masks_by_key:
            return tuple(masks_by_key[key])
    return ()


def _stems(name: str) -> list[str]:
    """A path without an image's extension; a name that has another one may also be meant as a whole."""
    stem, suffix = os.path.splitext(name)
    if not suffix or suffix.lower() in SUFFIXES:
        return [stem]
    return [name, stem]


def _keys(stem: str) -> tuple[str, str, str]:
    """A stem's keys, from exact to loose: as it is, composed, without case; a mark keeps them apart."""
    composed = unicodedata.normalize("NFC", stem)
    return f"={stem}", f"~{composed}", f"*{composed.casefold()}"
