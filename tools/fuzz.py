"""Random inputs against the engine, for as long as one likes: ``python -m tools.fuzz pictures --minutes 10``.

A kind is a module with ``attempts(rng)``, an endless iterator of :class:`Attempt`, and limits, ``SECONDS`` for one
attempt and ``MEBIBYTES`` for the process. Everything that an attempt raises but :class:`intarsia.IntarsiaError`, and
what takes longer, is a finding: it is printed (the same seed brings it back), and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import intarsia
from intarsia.batch.running.process import peak_memory

__all__ = ["Attempt", "main"]

KINDS = {"pictures": "tools.fuzz_pictures", "requests": "tools.fuzz_requests"}
"""Name → module."""


@dataclass(frozen=True)
class Attempt:
    """One input.

    Attributes:
        name: what the input is, for the counts: a format, an endpoint.
        call: runs it; gives a word for what came of it, or raises.
        data: the input itself, kept in a file where it is a finding.
    """

    name: str
    call: Callable[[], str]
    data: bytes


@dataclass
class Findings:
    """What has come of the attempts so far."""

    outcomes: Counter[tuple[str, str]]
    problems: int = 0
    slowest: float = 0.0
    slowest_name: str = ""


def main() -> int:
    """Attempts until the time is over; 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="drawn and printed where it is not given")
    parser.add_argument("--keep", type=Path, default=None, help="folder for inputs that are findings")
    asked = parser.parse_args()
    seed = random.randrange(1 << 32) if asked.seed is None else asked.seed
    print(f"{asked.kind}: seed {seed}, {asked.minutes:g} minutes")

    module = importlib.import_module(KINDS[asked.kind])
    found = run(module.attempts(random.Random(seed)), asked.minutes * 60, module.SECONDS, asked.keep)
    for (name, outcome), count in sorted(found.outcomes.items()):
        print(f"  {name:12} {outcome:24} {count}")
    print(f"{sum(found.outcomes.values())} attempts, slowest {found.slowest:.2f} s ({found.slowest_name}), ", end="")
    print(f"peak memory {peak_memory():.0f} MiB, {found.problems} findings")
    return 1 if found.problems or peak_memory() > module.MEBIBYTES else 0


def run(attempts: Iterator[Attempt], seconds: float, most_seconds: float, keep: Path | None) -> Findings:
    """Carry out attempts for ``seconds``; each may take ``most_seconds`` of processor time."""
    found, end = Findings(Counter()), time.monotonic() + seconds
    for number, attempt in enumerate(itertools.takewhile(lambda _: time.monotonic() < end, attempts)):
        began, problem = time.process_time(), ""
        try:
            outcome = attempt.call()
        except intarsia.IntarsiaError as exc:
            outcome = type(exc).__name__
            problem = "an error of two lines" if "\n" in str(exc) else ""
        except Exception:  # noqa: BLE001 - that is what is looked for
            outcome, problem = "exception", traceback.format_exc()
        took = time.process_time() - began

        found.outcomes[attempt.name, outcome] += 1
        if took > found.slowest:
            found.slowest, found.slowest_name = took, f"{attempt.name}, attempt {number}"
        if took > most_seconds:
            problem = problem or f"{took:.2f} s of processor time"
        if problem:
            found.problems += 1
            print(f"attempt {number} ({attempt.name}): {problem}")
            if keep is not None:
                (keep / f"{number}-{attempt.name}").write_bytes(attempt.data)
    return found


if __name__ == "__main__":
    sys.exit(main())
