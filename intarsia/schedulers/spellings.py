"""Samplers by the names of other programs, in which settings may be part of the name: ``DPM++ 2M SDE Karras``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["SPACINGS_OF_OTHERS", "Sampler", "key_of", "spelled"]

SDE = "sde-dpmsolver++"

# A1111 and ComfyUI call the stochastic forms after their algorithm; which scheduler each is, as the overview of
# schedulers in diffusers' documentation has it.
_FORMS: dict[str, tuple[str, str]] = {
    "dpmpp2msde": ("DPMSolverMultistepScheduler", SDE),
    "dpmsolverppsde": ("DPMSolverMultistepScheduler", SDE),
    "dpmppsde": ("DPMSolverSinglestepScheduler", SDE),
    "dpmpp2ssde": ("DPMSolverSinglestepScheduler", SDE),
}

SPACINGS_OF_OTHERS = ("karras", "exponential", "normal", "simple", "sgmuniform", "ddimuniform", "beta", "automatic")
"""What other programs call a scheduler, and is the spacing of the noise levels: keys of :func:`key_of`."""


@dataclass(frozen=True)
class Sampler:
    """What a sampler's name means.

    Attributes:
        scheduler: the full name of a scheduler.
        karras: True where the name says Karras; else it says nothing of it.
        algorithm_type: the form of a DPM solver that the name says; None says nothing.
    """

    scheduler: str
    karras: bool = False
    algorithm_type: str | None = None


def key_of(name: str) -> str:
    """A name as spellings are compared: letters and digits in lower case, ``++`` as ``pp``."""
    return re.sub(r"[^a-z0-9]", "", name[:100].lower().replace("++", "pp").replace("ancestral", "a"))


def spelled(name: str, known: Mapping[str, str]) -> Sampler | None:
    """The sampler that a name means; None for one that nobody has, or that says exponential.

    Args:
        known: keys of names and aliases → full name.
    """
    key = key_of(name)
    for prefix in ("", "sample", "k"):
        if not key.startswith(prefix):
            continue
        sampler = _without_settings(key.removeprefix(prefix), known)
        if sampler is not None:
            return sampler
    return None


def _without_settings(key: str, known: Mapping[str, str]) -> Sampler | None:
    """The sampler of a key, which may end in Karras, and in ComfyUI's ``gpu``."""
    if key in known:
        return Sampler(known[key])
    plain = key.removesuffix("karras")
    is_karras = plain != key
    plain = plain.removesuffix("gpu")

    if plain in known:
        return Sampler(known[plain], is_karras)
    if plain in _FORMS:
        scheduler, algorithm = _FORMS[plain]
        return Sampler(scheduler, is_karras, algorithm)
    return None
