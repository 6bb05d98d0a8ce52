"""Samplers by the names of other programs, in which settings may be part of the name: ``DPM++ 2M SDE Karras``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from intarsia.schedulers.spacing_names import split_spacing

__all__ = ["Sampler", "key_of", "spelled"]

_MULTI, _SINGLE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
_SDE = "sde-dpmsolver++"

# A1111 and ComfyUI call the stochastic forms after their algorithm. The singlestep one is k-diffusion's step, with its
# midpoint at a level of the spacing: an evaluation is a step here, and half of one there.
_FORMS: dict[str, tuple[str, str | None]] = {
    "dpmpp2msde": (_MULTI, None),
    "dpmsolverppsde": (_MULTI, None),
    "dpmpp2msdeheun": (_MULTI, "heun"),
    "dpmppsde": (_SINGLE, None),
    "dpmpp2ssde": (_SINGLE, None),
}


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """What a sampler's name means; None where it says nothing.

    Attributes:
        scheduler: the full name of a scheduler.
        spacing: of the noise levels.
        algorithm_type: the form of a DPM solver.
        solver_type: how that form weighs its second difference.
    """

    scheduler: str
    spacing: str | None = None
    algorithm_type: str | None = None
    solver_type: str | None = None


def key_of(name: str) -> str:
    """A name as spellings are compared: letters and digits in lower case, ``++`` as ``pp``."""
    return re.sub(r"[^a-z0-9]", "", name[:100].lower().replace("++", "pp").replace("ancestral", "a"))


def spelled(key: str, known: Mapping[str, str]) -> Sampler | None:
    """The sampler that the key of a name means, its spacing as it is written; None for one that nobody has.

    Args:
        known: keys of names and aliases → full name.
    """
    for prefix in ("", "sample", "k"):
        if not key.startswith(prefix):
            continue
        sampler = _with_spacing(key.removeprefix(prefix), known)
        if sampler is not None:
            return sampler
    return None


def _with_spacing(key: str, known: Mapping[str, str]) -> Sampler | None:
    """The sampler of a key, which may end in a spacing, and in ComfyUI's ``gpu``."""
    if key in known:
        return Sampler(scheduler=known[key])
    plain, spacing = split_spacing(key)
    plain = plain.removesuffix("gpu")

    if plain in known:
        return Sampler(scheduler=known[plain], spacing=spacing or None)
    if plain in _FORMS:
        scheduler, solver_type = _FORMS[plain]
        return Sampler(scheduler=scheduler, spacing=spacing or None, algorithm_type=_SDE, solver_type=solver_type)
    return None
