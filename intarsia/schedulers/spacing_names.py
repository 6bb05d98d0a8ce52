"""Spacings of noise levels by the names of other programs, and which of ours each of them is."""

from __future__ import annotations

import re

from intarsia.errors import RequestError, shown
from intarsia.schedulers.noise_schedule import SPACINGS
from intarsia.schedulers.solvers import Solver
from intarsia.schedulers.spacing import CURVES

__all__ = ["absence_of", "allowed_spacings", "is_spacing", "spacing_key", "spacing_of", "split_spacing"]

_OURS: tuple[str, ...] = (*SPACINGS, *CURVES)

# N timesteps that may be fractional, from the last trained one to the first: A1111 and ComfyUI.
_EVEN = ("normal", "uniform")

# What there is not, and what of ours is nearest to it.
_ABSENT = {
    "sgmuniform": "trailing is within 1.5 trained timesteps of SGM's uniform spacing",
    "simple": "trailing is the simple spacing where the steps divide the trained timesteps",
    "ddimuniform": "leading is DDIM's uniform spacing where the steps divide the trained timesteps",
    "beta": "there is no beta spacing",
    "polyexponential": "there is no polyexponential spacing",
    "kloptimal": "there is no KL-optimal spacing",
    "alignyoursteps": "there are no spacings of Align Your Steps",
    "ays": "there are no spacings of Align Your Steps",
    "linearquadratic": "there is no linear-quadratic spacing",
    "turbo": "there is no turbo spacing: trailing is what few-step models are made for",
    "automatic": "left out, it is Karras's where the scheduler has noise levels",
}

# Longer ones first: "sgmuniform" ends in "uniform".
_KEYS = sorted((*_OURS, *_EVEN, *_ABSENT), key=len, reverse=True)


def spacing_key(name: str) -> str:
    """A spacing's name as spellings are compared: letters alone, in lower case."""
    return re.sub(r"[^a-z]", "", name[:100].lower())


def is_spacing(key: str) -> bool:
    """Whether a key is that of a spacing, ours or another program's."""
    return key in _KEYS


def split_spacing(key: str) -> tuple[str, str]:
    """The key of a sampler's name without the spacing that it ends in, and that; "" where it ends in none."""
    for spacing in _KEYS:
        if key.endswith(spacing):
            return key.removesuffix(spacing), spacing
    return key, ""


def allowed_spacings(solver: Solver) -> tuple[str, ...]:
    """Those that mean something for a solver."""
    return _OURS if solver.curves else SPACINGS


def absence_of(key: str) -> str:
    """Why a spacing of another program is none of ours, and what is near it; "" for those that we have."""
    return _ABSENT.get(key, "")


def spacing_of(name: object, scheduler: str, solver: Solver) -> str:
    """The spacing of ours that a name means for a scheduler.

    Raises:
        RequestError: there is none of that name, or it means nothing for the scheduler.
    """
    known = allowed_spacings(solver)
    allowed = f"one of {', '.join(known)} for {scheduler}"
    if not isinstance(name, str):
        raise RequestError("spacing", name, allowed)

    key, why = spacing_key(name), ""
    if key in _EVEN:
        grid = solver.grid
        is_even = not (grid.whole or grid.open_end or grid.curve)
        if is_even:
            key = "linspace"
        else:
            why = f"its linspace is not the {key} spacing"
    if key in known:
        return key

    reason = why or absence_of(key)
    message = f"spacing must be {allowed}, not {shown(name)}"
    raise RequestError("spacing", name, message=f"{message}; {reason}" if reason else message)
