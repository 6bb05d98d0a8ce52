"""The OpenAPI 3.1 document of the server: the documented endpoints as the documents have them, and our own API."""

from __future__ import annotations

from functools import cache
from typing import Any

from intarsia import __version__
from intarsia.endpoints.reading import ENDPOINTS
from intarsia.endpoints.schemas import openapi as documented
from intarsia.server.engines.previews import PREVIEW_EVERY
from intarsia.server.routes.api_schemas import REF, Schema, own_schemas
from intarsia.server.routes.job_replies import FETCH

__all__ = ["openapi"]

_KEY = "Needs a key where the server has keys: as `Authorization: Bearer KEY`, or as the header `key`."
_KEY_IN_BODY = "Needs a key where the server has keys: as `key` in the body, or as above."
_JOB_ID: Schema = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "integer"}}
_IDEMPOTENCY: Schema = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 200}}
_MEANINGS = {
    400: "A field that means nothing or cannot be honored.",
    401: "The key is missing or wrong.",
    404: "There is no such job, or it is another key's.",
    413: "The body is too large.",
    422: "The `Idempotency-Key` belongs to another request.",
    429: "The queue is full, or the key's limit is reached.",
    500: "It failed inside intarsia.",
}
_PONY = "/api/v1/enterprise/pony"


@cache
def openapi() -> Schema:
    """The document. It is the same for every server of this version, and not to be changed."""
    document = documented()
    document["info"] |= {"title": "intarsia", "version": __version__, "summary": "Inpainting on your own machine."}
    document["tags"] = [
        {"name": "documented", "description": f"The hosted service's endpoints. {_KEY_IN_BODY}"},
        {"name": "jobs", "description": f"Our own API. {_KEY}"},
        {"name": "server", "description": "What the server has, and how it is."},
    ]
    for path in document["paths"].values():
        _complete(path["post"])

    document["paths"] |= _fetches() | _small_routes() | _jobs() | _server()
    document["components"]["schemas"] |= own_schemas()
    return document


def _complete(operation: Schema) -> None:
    """Add to a documented endpoint what a server has beside it: the header, and more errors, in the documented form."""
    operation["tags"] = ["documented"]
    operation["parameters"] = [*operation.get("parameters", []), _IDEMPOTENCY]
    responses = operation["responses"]
    for status in (413, 422, 429):
        responses[str(status)] = responses["400"] | {"description": _MEANINGS[status]}


def _operation(tag: str, summary: str, responses: Schema, **more: Any) -> Schema:
    return {"tags": [tag], "summary": summary, **more, "responses": responses}


def _json(description: str, schema: str | Schema) -> Schema:
    """A response with a body; a component by its name, or a schema."""
    content = {"$ref": REF + schema} if isinstance(schema, str) else schema
    return {"description": description, "content": {"application/json": {"schema": content}}}


def _refused(*statuses: int) -> Schema:
    """The errors of our own API."""
    return {str(status): _json(_MEANINGS[status], "Error") for status in statuses}


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _jobs() -> Schema:
    limit = {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}
    page = _operation(
        "jobs",
        "Jobs of this key, the newest first",
        {"200": _json("A page of jobs.", "JobPage"), **_refused(400, 401)},
        parameters=[
            _query("cursor", "`next` of the page before.", {"type": "string"}),
            _query("limit", "Jobs on a page.", limit),
        ],
    )
    show = _operation("jobs", "A job", {"200": _json("The job.", "Job"), **_refused(401, 404)})
    cancel = _operation(
        "jobs",
        "Cancel a job",
        {"200": _json("The job as it is now.", "Job"), **_refused(401, 404)},
        description="At once where it is queued, at its next evaluation where it runs; an ended one stays as it is.",
    )
    return {
        "/jobs": {"post": _accept(), "get": page},
        "/jobs/{job_id}": {"parameters": [_JOB_ID], "get": show, "delete": cancel},
        "/jobs/{job_id}/events": {"parameters": [_JOB_ID], "get": _events()},
    }


def _accept() -> Schema:
    every = {"type": "integer", "minimum": 0, "maximum": 150, "default": PREVIEW_EVERY}
    previews = _query("preview_every", "Steps from one preview in the events to the next; 0 is without.", every)
    created = _json("The job, which is stored and survives a restart.", "Job")
    created["headers"] = {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}}
    return _operation(
        "jobs",
        "Inpaint",
        {"201": created, **_refused(400, 401, 413, 422, 429, 500)},
        description="The same request with an equal `Idempotency-Key` gives the job that the first one has given.",
        parameters=[previews, _IDEMPOTENCY],
        requestBody={
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": f"{REF}InpaintRequest"}},
                "multipart/form-data": {"schema": {"$ref": f"{REF}JobForm"}},
            },
        },
    )


def _events() -> Schema:
    stream = {
        "description": "Events until the job has ended: `queued` (position, eta), `step` (step, steps), `preview` "
        "(step, steps, images as data URIs), and `done`, `failed` or `cancelled` (the job).",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    seen = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}
    return _operation(
        "jobs",
        "Follow a job",
        {"200": stream, "204": {"description": "The end has been seen already."}, **_refused(400, 401, 404)},
        description="Server-sent events. With `Last-Event-ID` only what is new since that event is sent.",
        parameters=[seen],
    )


def _server() -> Schema:
    ready = {
        "200": _json("It serves.", "Readiness"),
        "503": _json("It does not; the reasons are for whoever has a key.", "Readiness"),
    }
    metrics = {
        "200": {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **_refused(401),
    }
    models = {"200": _json("The registry.", "Models"), **_refused(401)}
    schedulers = {"200": _json("All of them.", "Schedulers"), **_refused(401)}
    return {
        "/models": {"get": _operation("server", "Models, and what is used with them", models)},
        "/schedulers": {"get": _operation("server", "Schedulers", schedulers)},
        "/healthz": {"get": _operation("server", "Whether it lives", {"200": _json("It does.", "Health")})},
        "/readyz": {"get": _operation("server", "Whether it can serve", ready)},
        "/metrics": {"get": _operation("server", "Metrics", metrics)},
    }


def _fetches() -> Schema:
    """The finished replies of each endpoint, by the id in the body or in the path."""
    endpoints_by_path: dict[str, list[str]] = {}
    for endpoint, path in FETCH.items():
        endpoints_by_path.setdefault(path, []).append(endpoint)

    paths: Schema = {}
    for path, endpoints in endpoints_by_path.items():
        names = ["".join(word.capitalize() for word in ENDPOINTS[name].name.split("-")) for name in endpoints]
        replies = [f"{name}{kind}" for name in names for kind in ("Success", "Processing", "Error")]
        found = {"200": _json("The reply as it is now.", {"anyOf": [{"$ref": REF + name} for name in replies]})}
        responses = {**found, "404": _json("There is no request of that id.", f"{names[0]}Error")}

        by_body = {"request_id": {"type": ["integer", "string"]}, "key": {"type": "string"}}
        body = _body({"type": "object", "properties": by_body, "required": ["request_id"]})
        paths[path] = {"post": _operation("documented", "Fetch a reply", responses, **body)}
        by_path = _operation("documented", "Fetch a reply by its address", responses)
        paths[f"{path}/{{job_id}}"] = {"parameters": [_JOB_ID], "post": by_path}
    return paths


def _small_routes() -> Schema:
    lists = {
        "schedulers_list": ("Names of schedulers", "schedulers"),
        "get_all_models": ("Models", "models"),
        "system_details": ("What runs here", "version"),
    }
    paths: Schema = {}
    for name, (summary, member) in lists.items():
        responses = {"200": _json("The list.", _status_and(member)), "401": _json("Wrong key.", "PonyError")}
        paths[f"{_PONY}/{name}"] = {"post": _operation("documented", summary, responses)}
    for path, field in {
        "/api/v6/base64_to_url": "base64_string",
        "/api/v6/image_editing/base64_to_url": "init_image",
    }.items():
        paths[path] = {"post": _upload(field)}
    return paths


def _upload(field: str) -> Schema:
    properties = {"key": {"type": "string"}, field: {"type": "string", "description": "Base64 or data URI."}}
    body = _body({"type": "object", "properties": properties, "required": [field]})
    responses = {
        "200": _json("Where the image is for 24 hours.", _status_and("output", "link", "id")),
        "400": _json("It is no image.", "PonyError"),
        "401": _json("Wrong key.", "PonyError"),
        "429": _json("The key has as many images stored as it may.", "PonyError"),
    }
    return _operation("documented", "Store an image, as PNG, for a later request", responses, **body)


def _body(schema: Schema) -> Schema:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _status_and(*members: str) -> Schema:
    return {"type": "object", "properties": {"status": {"const": "success"}}, "required": ["status", *members]}
