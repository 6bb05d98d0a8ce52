"""A job: one accepted request, as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from intarsia.errors import BackendError, IntarsiaError, OutOfMemory, RequestError, WeightsError

__all__ = [
    "ENDED",
    "LIBRARY",
    "UPLOAD",
    "Accepted",
    "Done",
    "Ended",
    "ErrorKind",
    "Failed",
    "Job",
    "Queue",
    "State",
    "Stopped",
    "WebhookTarget",
    "ended_job",
    "failure",
]

State = Literal["queued", "running", "done", "failed", "cancelled"]
ErrorKind = Literal["request", "model", "memory", "backend", "server"]

ENDED: tuple[State, ...] = ("done", "failed", "cancelled")

LIBRARY = "jobs"
"""Stands for an endpoint's name where a request came through our own API."""

UPLOAD = "base64_to_url"
"""Stands for an endpoint's name where an image was only stored: a job that is done as it is accepted."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One accepted request.

    It holds all that its images depend on: every seed is drawn, and images are named by the SHA-256 of their bytes,
    which are in the file store. So it gives the same images whenever it is run.

    Attributes:
        id: positive, below 2**53.
        endpoint: a documented endpoint's name, :data:`LIBRARY` or :data:`UPLOAD`.
        owner: name of the key that it came with; empty where the server has no keys.
        request: an ``InpaintRequest`` as JSON, ``{"sha256": …}`` in place of each image.
        delivery: how the documented reply is given: ``base64``, ``temp``, ``track_id``; of a job of our own API,
            ``preview_every``.
        warnings: found as the request was read.
        meta: effective parameters, in the names of the endpoint.
        files: names of the output files, one for each sample, drawn before they exist.
        lane_rows: network evaluations of all samples together.
        created, started, finished: Unix time in seconds.
        attempts: how often it was begun.
        expired: its images have been removed.
        result: ``seconds``, ``seeds``, ``nsfw``, ``warnings`` and ``runtime``, once done.
        error, error_kind: one line, and what kind it is of, once failed.
        webhook_status: what became of the webhook; empty without one.
        rows_ahead: network evaluations that were queued or running as it was accepted; None where that is long ago.
    """

    id: int
    endpoint: str
    owner: str = ""
    state: State = "queued"
    request: Mapping[str, Any] = field(default_factory=dict)
    delivery: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    lane_rows: int = 0
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    cancel_asked: bool = False
    expired: bool = False
    result: Mapping[str, Any] | None = None
    error: str = ""
    error_kind: ErrorKind | Literal[""] = ""
    webhook_status: str = ""
    rows_ahead: int | None = field(default=None, compare=False)

    @property
    def is_ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ENDED


@dataclass(frozen=True)
class Queue:
    """What is queued at one moment.

    Attributes:
        jobs, own: queued jobs of all owners, and of one.
        lane_rows: network evaluations of all jobs that are queued or running.
    """

    jobs: int
    own: int
    lane_rows: int


class Accepted(NamedTuple):
    """A stored job, whether it is new, and what was queued before it; None where it is not new."""

    job: Job
    is_new: bool
    queue: Queue | None


@dataclass(frozen=True)
class WebhookTarget:
    """What is called when a job has ended.

    Attributes:
        url: http or https.
        base_url: what addresses in the body begin with, without a slash at the end.
    """

    url: str
    base_url: str

    @property
    def host(self) -> str:
        """The URL's host; empty where it has none."""
        try:
            return urlsplit(self.url).hostname or ""
        except ValueError:
            return ""


@dataclass(frozen=True)
class Done:
    """How a job ended well: what is stored as :attr:`Job.result`. Its files are written."""

    result: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """How a job failed: one line, and its kind."""

    message: str
    kind: ErrorKind = "backend"


@dataclass(frozen=True)
class Stopped:
    """A job that did not end: it was cancelled, or its engine ended (``lost``), so that it has to be run again."""

    lost: bool = False


Ended = Done | Failed | Stopped


def ended_job(job: Job, ended: Done | Failed, finished: float) -> Job:
    """A running job as it has ended, at that Unix time."""
    if isinstance(ended, Done):
        return replace(job, state="done", result=ended.result, finished=finished)
    return replace(job, state="failed", error=ended.message, error_kind=ended.kind, finished=finished)


def failure(error: BaseException) -> Failed:
    """What is stored of an exception that ended a job."""
    if isinstance(error, RequestError):
        return Failed(str(error), "request")
    if isinstance(error, WeightsError):
        return Failed(str(error), "model")
    if isinstance(error, OutOfMemory):
        return Failed(str(error), "memory")
    if isinstance(error, BackendError):
        return Failed(str(error), "backend")
    if isinstance(error, IntarsiaError):
        return Failed(str(error), "server")
    return Failed("the request failed inside intarsia; its log has the details", "server")
