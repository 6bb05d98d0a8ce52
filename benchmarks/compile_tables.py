"""How long a 50-step table takes to compile, for every scheduler, beside diffusers' ``set_timesteps``.

Compiled anew each time, the cache cleared before it; the median of several turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import diffusers
import numpy as np

from intarsia import schedulers
from intarsia.schedulers import build

STEPS = 50


def median_seconds(call: Callable[[], object], turns: int) -> float:
    """Median wall time of a call, the first one left out."""
    call()
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def compile_anew(name: str) -> schedulers.Table:
    """A table that no cache knows."""
    build._build.cache_clear()
    return schedulers.table(name, STEPS, karras=True)


def is_sound(name: str) -> bool:
    """Compiled twice, a table is the same and finite. That it is right is the oracle tests' affair."""
    one, other = compile_anew(name), compile_anew(name)
    same = np.array_equal(one.matrix, other.matrix) and np.array_equal(one.timesteps, other.timesteps)
    return bool(same and np.isfinite(one.matrix).all())


def diffusers_seconds(name: str, turns: int) -> float | None:
    """The time of `set_timesteps` in diffusers; None where it has no such class or refuses the step count."""
    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "set_timesteps"):
        return None
    made = kind()
    try:
        return median_seconds(lambda: made.set_timesteps(STEPS), turns)
    except (TypeError, ValueError, NotImplementedError):
        return None


def measured(turns: int) -> dict[str, dict[str, float | None]]:
    """Seconds to compile, to take from the cache, and what diffusers takes, by scheduler."""
    return {
        name: {
            "compile": median_seconds(lambda name=name: compile_anew(name), turns),
            "cached": median_seconds(lambda name=name: schedulers.table(name, STEPS, karras=True), turns),
            "diffusers_set_timesteps": diffusers_seconds(name, turns),
        }
        for name in schedulers.NAMES
    }
