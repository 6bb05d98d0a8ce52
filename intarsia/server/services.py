"""The parts of a running server, put together once and handed to every route."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from intarsia.errors import IntarsiaError
from intarsia.images.access import Access
from intarsia.images.decode import decoders
from intarsia.registry.registry import Registry
from intarsia.server.acceptance import Acceptance
from intarsia.server.engines.dispatcher import Dispatcher
from intarsia.server.engines.events import JobEvents
from intarsia.server.engines.host import EngineHost, Listener
from intarsia.server.engines.hosts import open_files, open_host
from intarsia.server.http.authentication import Authentication
from intarsia.server.http.keys import Keys
from intarsia.server.http.limits import RateLimit
from intarsia.server.intake import Intake
from intarsia.server.metrics import Metrics
from intarsia.server.routes.job_replies import webhook_body
from intarsia.server.settings import ServeSettings
from intarsia.server.store.files import FileStore, FolderLock
from intarsia.server.store.jobs import Job
from intarsia.server.store.kept_jobs import KeptJobs
from intarsia.server.store.retention import Retention
from intarsia.server.store.store import Store
from intarsia.server.store.webhooks import WebhookSender
from intarsia.threads import start_thread

__all__ = ["Services"]

log = logging.getLogger("intarsia")


@dataclass(kw_only=True)
class Services:
    """Everything that routes need, open from :meth:`open` to :meth:`close`.

    Attributes:
        intake: requests on their way to ``acceptance``.
        problems: by model id, why a model that was to be opened at the start cannot be.
        is_ready: the models named at the start have been opened, or have a problem.
        is_closing: the server is about to end; whoever waits stops waiting.
        failure: why the server ended by itself.
        on_failure: ends the server.
    """

    settings: ServeSettings
    registry: Registry
    files: FileStore
    store: Store
    events: JobEvents
    acceptance: Acceptance
    dispatcher: Dispatcher
    retention: Retention
    webhooks: WebhookSender
    metrics: Metrics
    authentication: Authentication
    lock: FolderLock | None
    host: EngineHost | None = None
    problems: dict[str, str] = field(default_factory=dict)
    is_ready: bool = False
    is_closing: bool = False
    failure: str = ""
    on_failure: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.intake = Intake(self.acceptance)
        self._closed = threading.Event()

    @classmethod
    def open(cls, settings: ServeSettings) -> Services:
        """Open the folder, the database and the registry; starts nothing.

        Raises:
            IntarsiaError: one of them cannot be opened; the message says which.
        """
        # With a database that several servers share, its leases say who runs what.
        lock = None if settings.database else FolderLock(settings.data)
        try:
            files = open_files(settings.data, settings.files)
            files.check()
            registry = Registry(settings.engine.weights, settings.engine.precision)
            keys = None if settings.keys is None else Keys.read(settings.keys)
            shared = bool(settings.database)
            store = Store(settings.database or settings.data / "jobs.sqlite3", shared=shared)
        except IntarsiaError:
            if lock is not None:
                lock.release()
            raise

        events = JobEvents()
        metrics = Metrics(store.endpoint_counts)
        webhooks = WebhookSender(
            store,
            secret=settings.webhook_secret,
            allow_private_urls=settings.allow_private_urls,
            count=metrics.webhook,
        )
        return cls(
            settings=settings,
            registry=registry,
            files=files,
            store=store,
            events=events,
            acceptance=_acceptance(settings, registry, files, store),
            dispatcher=Dispatcher(
                store,
                events,
                server=_server_name(),
                on_end=partial(_job_ended, metrics, webhooks),
                shared=shared,
            ),
            retention=Retention(KeptJobs(store.database), files, keep=settings.keep, disk_limit=settings.disk_limit),
            webhooks=webhooks,
            metrics=metrics,
            authentication=_authentication(settings, keys, metrics),
            lock=lock,
        )

    def start(self, open_engines: Callable[[Listener], EngineHost] | None = None) -> None:
        """Begin to run jobs: first those that an earlier process left, in their old order.

        Args:
            open_engines: makes the engine host; None makes that of the settings.
        """
        self.dispatcher.on_failure = self._failed
        if open_engines is None:
            self.host = open_host(self.settings, self.files, self.dispatcher)
        else:
            self.host = open_engines(self.dispatcher)
        host = self.host
        self.metrics.watch_engines(lambda: host.statistics)
        self.dispatcher.start(self.host)
        self.webhooks.start(lambda job, base_url: webhook_body(job, self, base_url))
        start_thread(partial(self.retention.run, self._closed), "intarsia-retention")

    def open_models(self) -> None:
        """Begin to open the models named at the start; ``is_ready`` once that is done."""
        start_thread(self._open_models, "intarsia-preload")

    def stop_waiting(self) -> None:
        """Say that the server is about to end, to whoever waits for a job."""
        self.is_closing = True
        self.events.wake_readers()

    def close(self) -> None:
        """Stop what runs, which is queued again, and release everything."""
        self._closed.set()
        self.dispatcher.stop()
        self.webhooks.close()
        self.store.close()
        if self.lock is not None:
            self.lock.release()

    def _open_models(self) -> None:
        """Open the models named at the start; a server whose engine cannot be opened at all ends."""
        assert self.host is not None
        decoders()  # are imported, for which the first requests would otherwise wait together
        self.problems = self.host.open_models(self.settings.models)
        for model, problem in self.problems.items():
            log.error("the model %s cannot be opened: %s", model, problem)
        self.is_ready = True

    def _failed(self, problem: str) -> None:
        self.failure = problem
        self.on_failure()


def _job_ended(metrics: Metrics, webhooks: WebhookSender, job: Job) -> None:
    metrics.job_ended(job)
    if job.webhook_status:  # each look for calls that are due takes the database some time
        webhooks.wake()


def _acceptance(settings: ServeSettings, registry: Registry, files: FileStore, store: Store) -> Acceptance:
    access = Access(
        allow_paths=False,
        allow_private_urls=settings.allow_private_urls,
        max_pixels=settings.engine.max_pixels,
    )
    return Acceptance(
        registry=registry,
        files=files,
        store=store,
        queue=settings.queue,
        share=settings.queue if settings.queue_share is None else settings.queue_share,
        access=access,
        keep=settings.keep,
    )


def _authentication(settings: ServeSettings, keys: Keys | None, metrics: Metrics) -> Authentication:
    limit = None if settings.rate is None else RateLimit(rate=settings.rate, burst=max(1.0, 2 * settings.rate))
    return Authentication(keys=keys, count=metrics.refused, owners=limit, clients=limit)


def _server_name() -> str:
    """A name that no other process has, now or later."""
    return f"{time.time_ns():x}-{secrets.token_hex(4)}"
