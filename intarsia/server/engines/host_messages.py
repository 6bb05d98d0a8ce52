"""What a server and an engine in a process of its own say to each other: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from intarsia.engine.result import Progress
from intarsia.server.engines.previews import Preview
from intarsia.server.settings import EngineSettings
from intarsia.server.store.jobs import Done, Ended, Failed, Job, Stopped

__all__ = [
    "Cancel",
    "JobEnded",
    "Message",
    "ModelsOpened",
    "OpenModels",
    "Opened",
    "Previewed",
    "Refused",
    "Start",
    "StartJob",
    "Statistics",
    "Stepped",
    "decode",
    "encode",
]


@dataclass(frozen=True, kw_only=True)
class Start:
    """The first message: what to open, and where the files are."""

    settings: Mapping[str, Any]
    device: str
    data: str
    files: str

    @property
    def engine_settings(self) -> EngineSettings:
        """As they were before they became JSON."""
        return EngineSettings(**{**self.settings, "devices": tuple(self.settings["devices"])})


@dataclass(frozen=True)
class Opened:
    """The engine takes jobs, as many as it has room for."""

    capacity: int


@dataclass(frozen=True)
class Refused:
    """The engine cannot be opened, and will not be by another try."""

    error: str


@dataclass(frozen=True)
class StartJob:
    """Run a job."""

    job: Mapping[str, Any]

    @classmethod
    def of(cls, job: Job) -> StartJob:
        """The message about a job."""
        return cls(_fields(job))

    @property
    def as_job(self) -> Job:
        """As it was before it became JSON."""
        return Job(**{**self.job, "warnings": tuple(self.job["warnings"]), "files": tuple(self.job["files"])})


@dataclass(frozen=True)
class Cancel:
    """Stop a job."""

    job_id: int


@dataclass(frozen=True)
class OpenModels:
    """Open models before they are asked for."""

    models: list[str]


@dataclass(frozen=True)
class ModelsOpened:
    """Which of them cannot be opened, and why."""

    problems: dict[str, str]


@dataclass(frozen=True)
class Stepped:
    """A job has done another evaluation."""

    job_id: int
    step: int
    steps: int

    @property
    def progress(self) -> Progress:
        """As the listener takes it."""
        return Progress(self.step, self.steps)


@dataclass(frozen=True)
class Previewed:
    """A job's images after an evaluation."""

    job_id: int
    step: int
    steps: int
    images: list[str]

    @classmethod
    def of(cls, job_id: int, preview: Preview) -> Previewed:
        """The message about a preview."""
        return cls(job_id, preview.step, preview.steps, list(preview.images))

    @property
    def preview(self) -> Preview:
        """As the listener takes it."""
        return Preview(self.step, self.steps, tuple(self.images))


@dataclass(frozen=True)
class Statistics:
    """What has been evaluated so far."""

    values: dict[str, float]


@dataclass(frozen=True)
class JobEnded:
    """How a job ended."""

    job_id: int
    kind: str
    values: dict[str, Any]

    @classmethod
    def of(cls, job_id: int, ended: Ended) -> JobEnded:
        """The message about an end."""
        return cls(job_id, type(ended).__name__, _fields(ended))

    @property
    def ended(self) -> Ended:
        """As the listener takes it."""
        return _ENDS[self.kind](**self.values)


Message = (
    Start
    | Opened
    | Refused
    | StartJob
    | Cancel
    | OpenModels
    | ModelsOpened
    | Stepped
    | Previewed
    | Statistics
    | JobEnded
)

_ENDS: dict[str, type[Done] | type[Failed] | type[Stopped]] = {kind.__name__: kind for kind in (Done, Failed, Stopped)}
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """A message as a line."""
    values = {"message": type(message).__name__, **_fields(message)}
    return json.dumps(values).encode() + b"\n"


def _fields(message: Message | Job | Ended) -> dict[str, Any]:
    """Fields of a dataclass by name, without the copies of all that is in them that ``asdict`` makes."""
    return dict(vars(message))


def decode(line: str | bytes) -> Message:
    """The message of a line."""
    values = json.loads(line)
    kind = _KINDS[values.pop("message")]
    message: Message = kind(**values)
    return message
