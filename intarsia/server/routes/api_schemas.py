"""JSON Schemas (2020-12) of what our own API takes and gives."""

from __future__ import annotations

from typing import Any, get_args

from intarsia.endpoints.reading import ENDPOINTS
from intarsia.engine.request import InpaintRequest
from intarsia.server.store.jobs import LIBRARY, ErrorKind, State

__all__ = ["REF", "Schema", "own_schemas"]

Schema = dict[str, Any]

REF = "#/components/schemas/"

_IMAGE: Schema = {"type": "string", "description": "URL, data URI or base64 of an image."}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "minimum": 0}
_TIME: Schema = {"type": "number", "description": "Unix time in seconds."}
_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_FLAG: Schema = {"type": "boolean"}
_ANY_OBJECT: Schema = {"type": "object"}


def own_schemas() -> dict[str, Schema]:
    """The components of our own API by name."""
    request = InpaintRequest.model_json_schema(ref_template=REF + "{model}")
    parts = request.pop("$defs")
    for name in ("init_image", "mask_image"):
        request["properties"][name] = _IMAGE
    parts["IpAdapter"]["properties"]["image"] = _IMAGE
    request["properties"]["seed"] = _or_null({"type": ["integer", "string"]})
    request["description"] = "The library's request: intarsia inpaint --help says what each field means."

    return {
        "InpaintRequest": request,
        **parts,
        "JobForm": _job_form(),
        "Job": _job(),
        "JobPage": _object(
            jobs={"type": "array", "items": {"$ref": f"{REF}Job"}},
            next=_or_null(_TEXT | {"description": "The cursor of the next page."}),
        ),
        "Progress": _object(step=_COUNT, steps=_COUNT | {"description": "Network evaluations for each image."}),
        "Result": _result(),
        "Error": _error(),
        "Models": _models(),
        "Schedulers": _object(schedulers={"type": "array", "items": _scheduler()}),
        "Health": _object(status={"type": "string"}),
        "Readiness": _readiness(),
    }


def _object(**properties: Schema) -> Schema:
    """An object that has these properties, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _job_form() -> Schema:
    file: Schema = {"type": "string", "contentMediaType": "application/octet-stream"}
    return {
        "type": "object",
        "properties": {
            "request": {"$ref": f"{REF}InpaintRequest"},
            "init_image": file,
            "mask_image": file,
            "ip_adapter_image": file,
        },
        "additionalProperties": False,
    }


def _job() -> Schema:
    progress = {"$ref": f"{REF}Progress"}
    position = _COUNT | {"description": "In the queue; 1 is the next to begin."}
    return _object(
        id={"type": "integer"},
        state={"enum": list(get_args(State))},
        endpoint={"enum": [LIBRARY, *ENDPOINTS], "description": "What it came through."},
        url=_TEXT,
        events_url=_TEXT,
        created=_TIME,
        started=_or_null(_TIME),
        finished=_or_null(_TIME),
        cancelling=_FLAG | {"description": "It runs, and stops at its next evaluation."},
        position=_or_null(position),
        eta=_or_null(_SECONDS | {"description": "Seconds until it is expected to be done."}),
        progress=progress,
        seed={"type": "integer", "description": "Of the first image; image i has seed + i."},
        request=_ANY_OBJECT | {"description": "The request, with the SHA-256 of each image in its place."},
        plan=_or_null(_ANY_OBJECT | {"description": "What will be done, with every default."}),
        result=_or_null({"$ref": f"{REF}Result"}),
        error=_or_null(_object(message=_TEXT, kind={"enum": list(get_args(ErrorKind))})),
        expired=_FLAG | {"description": "Its images are kept no longer."},
        webhook_status=_TEXT | {"description": "What became of the call of its webhook; empty without one."},
    )


def _result() -> Schema:
    return _object(
        images=_TEXTS | {"description": "URLs, one for each sample."},
        seeds={"type": "array", "items": {"type": "integer"}},
        nsfw={"type": "array", "items": _FLAG, "description": "Whether the safety checker flagged each image."},
        warnings=_TEXTS,
        seconds=_SECONDS,
        timings={"type": "object", "additionalProperties": _SECONDS, "description": "Seconds by stage."},
        meta=_ANY_OBJECT | {"description": "Effective parameters, in the names of a request."},
    )


def _error() -> Schema:
    schema = _object(
        status={"const": "error"},
        message=_TEXT | {"minLength": 1},
        field=_TEXT | {"description": "The field that is wrong, where it is one."},
        retry_after=_COUNT | {"description": "Seconds after which the same request may be taken."},
    )
    return schema | {"required": ["status", "message"]}


def _models() -> Schema:
    shared = {"id": _TEXT, "installed": _FLAG, "aliases": _TEXTS, "licence": _TEXT}
    model = _object(
        **shared,
        family=_TEXT,
        size=_COUNT | {"description": "Side in pixels that it is made for."},
        default=_FLAG,
        realtime=_FLAG | {"description": "Whether the realtime endpoint runs it."},
    )
    part = _object(**shared, families=_TEXTS | {"description": "Families of models that it fits; empty fits all."})
    parts = {
        kind: {"type": "array", "items": part} for kind in ("vaes", "loras", "embeddings", "ip_adapters", "safety")
    }
    return _object(models={"type": "array", "items": model}, **parts)


def _scheduler() -> Schema:
    return _object(
        name=_TEXT,
        aliases=_TEXTS,
        evaluations=_TEXT | {"description": "Of the network, for N steps at full strength."},
        stochastic=_TEXT | {"description": "Whether fresh noise is drawn while it runs: yes, no, or when."},
        karras=_TEXT | {"description": "What karras_sigmas does."},
        note=_TEXT,
    )


def _readiness() -> Schema:
    schema = _object(status={"enum": ["ready", "not ready"]}, reasons=_TEXTS)
    return schema | {"required": ["status"]}
