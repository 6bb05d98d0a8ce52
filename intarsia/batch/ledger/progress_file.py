"""The progress of a run that goes on, as a small file in its output folder: ``report`` reads it.

It is there while a run lasts, and is written every few seconds. One that is older was left by a run that was killed, or
that hangs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from intarsia.batch.ledger.json_lines import is_count, read_json
from intarsia.batch.ledger.progress import Progress

__all__ = ["EVERY", "Running", "read_progress", "remove_progress", "write_progress"]

EVERY = 5.0
"""Seconds between two writings."""

_NAME = re.compile(r"\.intarsia-progress(-\d+-of-\d+)?\.json")
_LONGEST = 1 << 16
_SLOWEST = 1e-12  # rows a second; what is left at less is no number
_OLD = 60.0  # seconds: twelve writings that did not come


@dataclass(frozen=True, kw_only=True)
class Running:
    """What a run has said of itself while it went on.

    Attributes:
        age: seconds since it said so.
    """

    progress: Progress
    age: float

    @property
    def is_alive(self) -> bool:
        """Whether it has said so lately."""
        return self.age < _OLD

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        left = self.progress.seconds_left
        return {**asdict(self.progress), "seconds_left": left, "age": round(self.age, 1), "is_alive": self.is_alive}

    def line(self) -> str:
        """A sentence for people."""
        if self.is_alive:
            return f"running: {self.progress.line()}"
        return f"killed, or hanging: {self.progress.line()}; silent for {self.age / 60:.0f} min"


def write_progress(out: Path, shard: tuple[int, int], progress: Progress) -> None:
    """Replace the run's file, which may be lost in a crash: it is of no use after one.

    A disk that is full is no reason to stop here: the run's results are written to it too, and say so.
    """
    path = _path(out, shard)
    values = {**asdict(progress), "time": time.time()}
    temporary = path.with_name(f"{path.name}.part")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(values), encoding="ascii")
        os.replace(temporary, path)


def remove_progress(out: Path, shard: tuple[int, int]) -> None:
    """The run has ended."""
    with contextlib.suppress(OSError):
        _path(out, shard).unlink()


def read_progress(out: Path) -> list[Running]:
    """The runs that go on in a folder, one for each shard, in the order of their names; what is damaged is left out."""
    names = sorted(name for name in os.listdir(out) if _NAME.fullmatch(name))
    return [running for name in names for running in _read(out / name)]


def _path(out: Path, shard: tuple[int, int]) -> Path:
    part, parts = shard
    return out / (".intarsia-progress.json" if parts == 1 else f".intarsia-progress-{part}-of-{parts}.json")


def _read(path: Path) -> Iterator[Running]:
    """One run, or none where the file says nothing (any more)."""
    try:
        with path.open("rb") as file:
            problem, values = read_json(file.read(_LONGEST))
    except OSError:
        return
    if problem or not isinstance(values, dict):
        return

    counts: dict[str, Any] = {name: values.get(name) for name in ("rows", "finished", "failed")}
    rate: Any = values.get("rate")
    moment: Any = values.get("time")
    has_rate = _is_number(rate) and rate > _SLOWEST
    if all(map(is_count, counts.values())) and _is_number(moment) and (rate is None or has_rate):
        progress = Progress(**counts, rate=rate)
        yield Running(progress=progress, age=max(time.time() - moment, 0.0))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18
