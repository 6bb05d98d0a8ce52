"""A job as our own API shows it."""

from __future__ import annotations

from typing import Any

from intarsia.endpoints.answer import without_paths
from intarsia.server.routes.job_replies import file_url
from intarsia.server.services import Services
from intarsia.server.store.jobs import Job

__all__ = ["evaluations_of", "job_view", "queue_view"]


def job_view(job: Job, services: Services, base_url: str) -> dict[str, Any]:
    """Everything that there is to know about a job, as JSON; its schema is in the OpenAPI document.

    It looks into the store, so it belongs into a thread.
    """
    address = f"{base_url}/jobs/{job.id}"
    return {
        "id": job.id,
        "state": job.state,
        "endpoint": job.endpoint,
        "url": address,
        "events_url": f"{address}/events",
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "cancelling": job.state == "running" and job.cancel_asked,
        **_course(job, services),
        "seed": job.request["seed"],
        "request": dict(job.request),
        "plan": job.meta.get("plan"),
        "result": _result(job, services, base_url) if job.state == "done" else None,
        "error": _error(job, services) if job.state == "failed" else None,
        "expired": job.expired,
        "webhook_status": job.webhook_status,
    }


def queue_view(job: Job, services: Services) -> dict[str, Any]:
    """Of a queued job: ``position`` in the queue, 1 is the next to begin, and the ``eta`` in seconds."""
    _, rows = services.store.lane_rows_before(job.id)
    seconds = services.dispatcher.throughput.seconds(rows + job.lane_rows)
    return {"position": services.store.queued_before(job.id) + 1, "eta": round(seconds, 1)}


def evaluations_of(job: Job) -> int:
    """Network evaluations for each image: the steps that progress is counted in."""
    return job.lane_rows // len(job.files)


def _course(job: Job, services: Services) -> dict[str, Any]:
    """How far it is: position, progress and the time that it will take."""
    steps = evaluations_of(job)
    if job.state == "queued":
        return {**queue_view(job, services), "progress": {"step": 0, "steps": steps}}
    if job.state == "done":
        return {"position": None, "eta": None, "progress": {"step": steps, "steps": steps}}

    latest = services.events.latest(job.id)
    step = latest.step if latest else 0
    eta = None
    if job.state == "running":
        # What runs at the same time has an equal share of the device.
        rows = (steps - step) * len(job.files) * services.store.counts().get("running", 1)
        eta = round(services.dispatcher.throughput.seconds(rows), 1)
    return {"position": None, "eta": eta, "progress": {"step": step, "steps": steps}}


def _result(job: Job, services: Services, base_url: str) -> dict[str, Any]:
    assert job.result is not None  # which is stored with the state
    result = job.result
    warnings = dict.fromkeys((*job.warnings, *result["warnings"]))
    return {
        "images": [] if job.expired else [file_url(job, name, base_url) for name in job.files],
        "seeds": result["seeds"],
        "nsfw": result["nsfw"],
        "warnings": [without_paths(text, services.registry) for text in warnings],
        "seconds": result["seconds"],
        "timings": result["timings"],
        "meta": result["meta"],
    }


def _error(job: Job, services: Services) -> dict[str, str]:
    return {"message": without_paths(job.error, services.registry), "kind": job.error_kind}
