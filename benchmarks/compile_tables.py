"""`python -m benchmarks.compile_tables`: how long a 50-step table takes to compile, for every scheduler.

Compiled anew each time, the cache cleared before it; the median of several turns, beside what diffusers' own object of
that name takes for `set_timesteps`. Prints a table and writes a JSON record.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import diffusers

from benchmarks.environment import environment
from inlay import schedulers
from inlay.schedulers import build

STEPS, BAR = 50, 5e-3


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
    build._built.cache_clear()
    return schedulers.table(name, STEPS, karras=True)


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


def timed(name: str, turns: int) -> dict[str, float | None]:
    """Seconds to compile, to take from the cache, and what diffusers takes."""
    return {
        "compile": median_seconds(lambda: compile_anew(name), turns),
        "cached": median_seconds(lambda: schedulers.table(name, STEPS, karras=True), turns),
        "diffusers_set_timesteps": diffusers_seconds(name, turns),
    }


def main() -> int:
    """Measure all, print, record; 1 if a table takes longer than the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--out", type=Path, help="a folder for the JSON record")
    asked = parser.parse_args()
    rows = {name: timed(name, asked.turns) for name in schedulers.NAMES}
    print(f"{'scheduler':36} {'compile ms':>11} {'cached ms':>10} {'diffusers set_timesteps ms':>27}")
    for name, row in rows.items():
        theirs = row["diffusers_set_timesteps"]
        shown = f"{theirs * 1e3:27.2f}" if theirs is not None else f"{'-':>27}"
        print(f"{name:36} {row['compile'] * 1e3:11.2f} {row['cached'] * 1e3:10.3f} {shown}")
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        record = {"case": f"compile a {STEPS}-step table", "seconds": rows, "environment": environment()}
        (asked.out / "cpu_compile_tables.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0 if max(row["compile"] for row in rows.values()) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
