"""Messages between the parent of a local run and its worker processes: one JSON object a line, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.run_stats import WorkerState
from intarsia.batch.running.jobs import Job

__all__ = [
    "Bye",
    "Cancel",
    "Dying",
    "EngineRefused",
    "Finish",
    "Message",
    "Ready",
    "RowDone",
    "RunJob",
    "Start",
    "decode",
    "encode",
]


@dataclass(frozen=True, kw_only=True)
class Start:
    """To a worker, first of all: open an engine with these options, on this device, for this output folder."""

    options: Mapping[str, Any]
    out: str
    device: str


@dataclass(frozen=True)
class RunJob:
    """To a worker: run this job."""

    job: Job


@dataclass(frozen=True)
class Finish:
    """To a worker: finish what is in flight, say :class:`Bye` and exit."""


@dataclass(frozen=True)
class Cancel:
    """To a worker: cancel what is in flight, say :class:`Bye` and exit."""


@dataclass(frozen=True)
class Ready:
    """From a worker: its engine is open, and it takes this many jobs at once."""

    capacity: int


@dataclass(frozen=True)
class EngineRefused:
    """From a worker: its engine cannot be opened; ``kind`` is the name of the error's class."""

    kind: str
    text: str


@dataclass(frozen=True)
class Dying:
    """From a worker: it cannot go on, and exits now."""

    reason: str


@dataclass(frozen=True)
class RowDone:
    """From a worker: what became of a row, and the worker's counters."""

    record: Record
    state: WorkerState


@dataclass(frozen=True)
class Bye:
    """From a worker: nothing is in flight, it exits now."""

    state: WorkerState


Message = Start | RunJob | Finish | Cancel | Ready | EngineRefused | Dying | RowDone | Bye

_TYPES: Mapping[str, type[Message]] = {
    "start": Start,
    "job": RunJob,
    "end": Finish,
    "stop": Cancel,
    "ready": Ready,
    "refused": EngineRefused,
    "dying": Dying,
    "record": RowDone,
    "bye": Bye,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


class _Json(Protocol):
    """What a message may hold beside plain values."""

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, values: Mapping[str, Any], /) -> Self: ...


_NESTED: Mapping[str, type[_Json]] = {"job": Job, "record": Record, "state": WorkerState}
"""Fields of messages that are no plain values, and their types."""


def encode(message: Message) -> bytes:
    """A message as a line of ASCII, its end included."""
    values: dict[str, Any] = {"type": _NAMES[type(message)]}

    for each in fields(message):
        value = getattr(message, each.name)
        values[each.name] = value.to_json() if each.name in _NESTED else value

    return json.dumps(values).encode() + b"\n"


def decode(line: bytes | str) -> Message:
    """The message of a line.

    Raises:
        ValueError: the line is torn.
    """
    values = json.loads(line)
    kind = _TYPES[values.pop("type")]

    for name in values.keys() & _NESTED.keys():
        values[name] = _NESTED[name].from_json(values[name])

    return kind(**values)
