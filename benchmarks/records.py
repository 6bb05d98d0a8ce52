"""Records: what a case gave, as JSON. One whose check did not pass holds the reason and no number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, Case

KINDS = ("gpu", "cpu")
"""What a record was made on: the first part of its file's name."""


@dataclass(frozen=True)
class Check:
    """Whether the pictures are right, said before anything is timed.

    Attributes:
        errors: RMS in 8-bit levels against the reference, by contender: evidence, there in any case.
    """

    passed: bool
    reason: str
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One case on one machine. One with numbers and without a passed check cannot be made: ValueError.

    Attributes:
        settings: the case as it was run; ``rehearsal`` where it was made small for a CPU.
        numbers: times in seconds by contender, ratios, memory …; empty unless the check passed.
        absent: peers that were not measured, and why.
    """

    case: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    check: Check
    numbers: Mapping[str, Any] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    rehearsal: bool = False

    def __post_init__(self) -> None:
        if self.numbers and not self.check.passed:
            raise ValueError(f"{self.case}: a record has no numbers unless its check passed ({self.check.reason})")

    def write(self, folder: Path) -> Path:
        """Write ``<case>.json``, with the kind of device in front."""
        kind = "rehearsal" if self.rehearsal else KINDS[0] if self.environment.get("gpu") else KINDS[1]
        return write(folder / f"{kind}_{self.case}.json", asdict(self))


def write(path: Path, content: object) -> Path:
    """As JSON; whole or not at all, for others may read it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return fresh.replace(path)


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of all cases that a folder has, rehearsals left out. ValueError names a file that is no record."""
    found = []
    for path in (folder / f"{kind}_{case.name}.json" for case in CASES for kind in KINDS):
        if path.is_file():
            content = json.loads(path.read_text())
            if not {"case", "check", "numbers", "environment"} <= set(content):
                raise ValueError(f"{path}: not a record of benchmarks.run")
            found.append(content)
    return found


def judged(errors: Mapping[str, float], yardstick: str, half_precision: bool) -> Check:
    """Compare our error against the float32 reference with the yardstick's.

    In float32 both must agree with it to 40 dB (2.55 levels). In half precision ours may be a quarter above
    diffusers' own, because roundings are random, plus half a level for the final rounding to 8 bits; and the
    yardstick itself must be within 20 dB (25.5 levels), or it would measure chaos.
    """
    ours, theirs = errors["inlay"], errors[yardstick]
    if not all(math.isfinite(error) for error in (ours, theirs)):
        return Check(False, "an error is not finite", errors)
    if not half_precision:
        worst = max(ours, theirs)
        return Check(worst <= 2.55, f"worst error {worst:.2f} levels; at most 2.55 in float32", errors)
    if theirs > 25.5:
        return Check(False, f"the yardstick's own error is {theirs:.2f} levels; above 25.5 it tells nothing", errors)
    bar = 1.25 * theirs + 0.5
    return Check(ours <= bar, f"error {ours:.2f} levels; at most {bar:.2f}, {yardstick} has {theirs:.2f}", errors)


def settings(case: Case) -> dict[str, Any]:
    """What a record says of its case."""
    kept = ("title", "kind", "family", "size", "steps", "strength", "guidance", "scheduler", "batch")
    kept += ("token_merging", "requests", "warmups", "runs", "backend")
    return {name: getattr(case, name) for name in kept}
