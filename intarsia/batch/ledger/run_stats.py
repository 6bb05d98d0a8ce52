"""Counts and times of one run; the report is made of them."""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from intarsia.batch.ledger.json_lines import is_text_list
from intarsia.batch.ledger.records import Record
from intarsia.errors import shown

__all__ = ["RunStats", "WorkerState", "problem_of", "quantile", "with_present_names"]


# From where on the rate after the warm-up is one: so many batches of every process, and so long.
_STEADY_BATCHES = 4
_STEADY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class WorkerState:
    """Counters of one process's engine.

    Attributes:
        evaluations: of the network.
        lane_rows: images in all of them together.
        slots: images that one has room for.
        memory, device_memory: peaks in MiB; 0 on the device where that is not measured.
    """

    evaluations: int
    lane_rows: int
    slots: int
    memory: float
    device_memory: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The state that :meth:`to_json` gave."""
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return asdict(self)


@dataclass(kw_only=True)
class RunStats:
    """Counts and times of one run.

    Attributes:
        rows: that the run has to account for (its shard's).
        before: of them, those that were done already.
        status, errors: rows by status and by class of error.
        images: written.
        again: attempts beyond the first.
        first: seconds until the first image, weights loaded by then: the warm-up.
        stages: seconds by stage, one for each row.
        states: the latest report of each process.
        warnings: what was damaged in the files of earlier runs, and left out.
    """

    rows: int = 0
    before: int = 0
    status: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    images: int = 0
    again: int = 0
    restarts: int = 0
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    first_images: int = 0
    latest: float = 0.0
    stages: dict[str, array[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    states: list[WorkerState] = field(default_factory=list)
    stopped: str = ""
    warnings: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Take in a line of results."""
        self.status[record.status] += 1
        if record.attempts is not None:
            self.again += record.attempts - 1

        if record.status == "error":
            self.errors[record.error or ""] += 1
        elif record.status == "ok":
            self._add_images(record)

    def _add_images(self, record: Record) -> None:
        count = len(record.outputs or ())
        self.images += count
        self.latest = time.perf_counter() - self.began

        if self.first is None:
            self.first = self.latest
            self.first_images = count

        for stage, seconds in (record.timings or {}).items():
            self.stages[stage].append(seconds)

    @property
    def failed(self) -> int:
        return self.status["error"]

    @property
    def finished(self) -> int:
        return self.before + self.done

    @property
    def done(self) -> int:
        """Rows that this run has finished, those that were done before it apart."""
        return sum(self.status.values())

    @property
    def rate(self) -> float:
        """Images a second after the warm-up; 0 before there are two."""
        spent = self.latest - (self.first or 0.0)
        return (self.images - self.first_images) / spent if spent > 0 else 0.0

    @property
    def is_steady(self) -> bool:
        """Whether :attr:`rate` means anything: images come in batches, so a few of them have no rate."""
        slots = sum(state.slots for state in self.states)
        has_batches = self.images - self.first_images >= _STEADY_BATCHES * max(slots, 1)
        return has_batches and self.latest - (self.first or 0.0) >= _STEADY_SECONDS

    @property
    def fill(self) -> float:
        """Mean share of the batches' slots that were used, 0 … 1."""
        slots = sum(state.evaluations * state.slots for state in self.states)
        used = sum(state.lane_rows for state in self.states)
        return used / slots if slots else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report of this run."""
        seconds = time.perf_counter() - self.began
        steady = {"images_per_second_after_warm_up": round(self.rate, 3)} if self.is_steady else {}
        return {
            "rows": self.rows,
            "before": self.before,
            **{name: self.status[name] for name in ("ok", "error", "skipped", "cancelled")},
            "errors": dict(sorted(self.errors.items())),
            "images": self.images,
            "retries": self.again,
            "restarts": self.restarts,
            "stopped": self.stopped,
            "seconds": round(seconds, 3),
            "warm_up_seconds": round(self.first or 0.0, 3),
            "images_per_second": round(self.images / seconds, 3) if seconds > 0 else 0.0,
            **steady,
            "batch_fill": round(self.fill, 4),
            "peak_memory_mib": max((state.memory for state in self.states), default=0.0),
            "peak_device_memory_mib": max((state.device_memory for state in self.states), default=0.0),
            "stages": {name: _spread(times) for name, times in sorted(self.stages.items())},
            "warnings": self.warnings,
        }


def _spread(times: array[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"p50": round(quantile(ordered, 0.5), 6), "p95": round(quantile(ordered, 0.95), 6)}


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` of the ordered ones do not exceed (nearest rank)."""
    # In whole thousandths: in binary fractions 0.07 * 100 is 7.000000000000001, and its rank would be 8.
    thousandths = int(share * 1000)
    rank = math.ceil(thousandths * len(ordered) / 1000)

    # Ranks begin at 1; a share of 0 is the smallest value.
    clamped = min(max(rank, 1), len(ordered))
    return ordered[clamped - 1]


def with_present_names(numbers: Any) -> Any:
    """A report as it is written now: earlier ones called images pictures. What is no object stays as it is."""
    if not isinstance(numbers, dict):
        return numbers
    return {_PRESENT_NAMES.get(name, name): value for name, value in numbers.items()}


def problem_of(numbers: Any) -> str:
    """What keeps a value from being :meth:`RunStats.to_dict`'s; "" for nothing. Other keys may hold anything."""
    if not isinstance(numbers, dict):
        return f"must be an object, not {shown(numbers)}"

    for name, example in RunStats().to_dict().items():
        value = numbers.get(name, [] if name == "warnings" else None)  # earlier versions had no warnings

        if not _is_like(value, example) or (name in _NESTED and not _NESTED[name](value)):
            return f"{name} cannot be {shown(value)}"

    for name in _OPTIONAL & numbers.keys():
        if not _is_like(numbers[name], 0.0):
            return f"{name} cannot be {shown(numbers[name])}"
    return ""


def _is_like(value: Any, example: Any) -> bool:
    """Whether a value is a number, text, list or object as the example is."""
    if isinstance(example, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18
    return isinstance(value, type(example))


def _is_spread(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_like(value.get(name), 0.0) for name in ("p50", "p95"))


_NESTED: Mapping[str, Callable[[Any], bool]] = {
    "errors": lambda value: all(_is_like(count, 0) for count in value.values()),
    "stages": lambda value: all(map(_is_spread, value.values())),
    "warnings": is_text_list,
}

_PRESENT_NAMES = {
    "pictures": "images",
    "pictures_per_second": "images_per_second",
    "pictures_per_second_after_warm_up": "images_per_second_after_warm_up",
}
"""Keys of earlier reports → those of now."""

_OPTIONAL = {"images_per_second_after_warm_up"}
"""Numbers that a report may leave out."""
