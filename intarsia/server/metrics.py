"""Metrics in Prometheus' format: what the queue holds, how jobs go, how full the batches are, what is refused.

Labels are names of ours alone (endpoints, states, route templates, reasons), so their number is bounded, and no key,
address or prompt is ever in one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from intarsia.lru import Lru
from intarsia.server.store.jobs import Job

__all__ = ["METHODS", "Metrics", "RequestCounter"]

# Seconds: from an idle server's to those of a long queue.
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800)

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""Of HTTP, but for those that only proxies need."""

# Ended jobs that are remembered, as the end of one can be reported twice.
_REMEMBERED = 4096


class Metrics:
    """The metrics of one server, in a registry of its own. Every method may be called from any thread.

    Args:
        counts: jobs in the store, by endpoint and state.
    """

    def __init__(self, counts: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self.registry = CollectorRegistry()
        self._sampled = _Sampled(counts)
        self.registry.register(self._sampled)
        ProcessCollector(registry=self.registry)

        self._ended = Counter(
            "intarsia_jobs_ended", "Jobs that ended here.", ("endpoint", "state"), registry=self.registry
        )
        self._waited = _histogram(
            "intarsia_job_wait_seconds", "From the acceptance of a job to its start.", self.registry
        )
        self._ran = _histogram("intarsia_job_run_seconds", "From the start of a job to its end.", self.registry)
        self._webhooks = Counter(
            "intarsia_webhooks", "Calls of webhooks, by what came of them.", ("result",), registry=self.registry
        )
        self._refusals = Counter(
            "intarsia_refusals", "Requests that were refused, by reason.", ("reason",), registry=self.registry
        )
        self._requests = Counter(
            "intarsia_http_requests",
            "HTTP requests, by the template of their route.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._lock = threading.Lock()
        self._counted: Lru[int, bool] = Lru(_REMEMBERED)

    def watch_engines(self, statistics: Callable[[], Mapping[str, float]]) -> None:
        """Show what engines have evaluated; see :attr:`intarsia.server.engines.host.EngineHost.statistics`."""
        self._sampled.statistics = statistics

    def job_ended(self, job: Job) -> None:
        """Count a job that has ended, once."""
        if not job.is_ended or job.finished is None:
            return
        with self._lock:
            if job.id in self._counted:
                return
            self._counted.put(job.id, True)

        self._ended.labels(job.endpoint, job.state).inc()
        if job.started is not None:
            self._waited.labels(job.endpoint).observe(max(0.0, job.started - job.created))
            self._ran.labels(job.endpoint).observe(max(0.0, job.finished - job.started))

    def webhook(self, result: str) -> None:
        """Count a call of a webhook; ``result`` is one of a few words of ours."""
        self._webhooks.labels(result).inc()

    def refused(self, reason: str) -> None:
        """Count a request that was refused; ``reason`` is one of a few words of ours."""
        self._refusals.labels(reason).inc()

    def request(self, route: str, method: str, status: str) -> None:
        """Count an HTTP request, by the template of its route."""
        self._requests.labels(route, method if method in METHODS else "other", status).inc()

    def text(self) -> bytes:
        """All of them as they are now, in the text format. It looks into the store, so it belongs into a thread."""
        return generate_latest(self.registry)


class RequestCounter:
    """ASGI middleware that counts requests, those included that another middleware inside it refuses."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        status = "none"  # the client was gone before there was a reply

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            # What has no route has a name that strangers choose.
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.request(route, scope["method"], status)


class _Sampled(Collector):
    """What is looked up as the metrics are read."""

    def __init__(self, counts: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._counts = counts
        self.statistics: Callable[[], Mapping[str, float]] = dict

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering it does not look anything up."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield from _jobs(self._counts())
        yield from _evaluated(self.statistics())


def _jobs(counts: Mapping[tuple[str, str], int]) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("intarsia_jobs", "Jobs in the store.", labels=("endpoint", "state"))
    for (endpoint, state), count in sorted(counts.items()):
        jobs.add_metric((endpoint, state), count)
    yield jobs

    queued = sum(count for (_, state), count in counts.items() if state == "queued")
    yield GaugeMetricFamily("intarsia_queue_depth", "Jobs that wait to be begun.", queued)


def _evaluated(statistics: Mapping[str, float]) -> Iterator[Metric]:
    evaluations = statistics.get("evaluations", 0.0)
    rows, slots = statistics.get("lane_rows", 0.0), statistics.get("lane_slots", 0.0)
    yield CounterMetricFamily("intarsia_evaluations", "Batches that went through a network.", evaluations)
    yield CounterMetricFamily("intarsia_lane_rows", "Images in these batches, summed.", rows)
    yield CounterMetricFamily("intarsia_lane_slots", "Images that they had room for, summed.", slots)

    fill = rows / slots if slots else 0.0
    yield GaugeMetricFamily("intarsia_batch_fill", "Mean share of the batches' room that was used, 0 to 1.", fill)
    if "peak_bytes" in statistics:
        peak = statistics["peak_bytes"]
        yield GaugeMetricFamily("intarsia_device_memory_peak_bytes", "Most device memory used at once.", peak)


def _histogram(name: str, description: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, description, ("endpoint",), buckets=_SECONDS, registry=registry)
