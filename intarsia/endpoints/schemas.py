"""JSON Schemas (2020-12) of the documented requests and replies, and an OpenAPI 3.1 document; all from the code."""

from __future__ import annotations

from typing import Any

from intarsia import __version__
from intarsia.endpoints.endpoint import Endpoint, Field
from intarsia.endpoints.reading import ENDPOINTS

__all__ = ["openapi", "reply_schemas", "request_schema"]

Schema = dict[str, Any]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_URLS: Schema = {"type": "array", "items": {"type": "string"}}


def request_schema(endpoint: Endpoint) -> Schema:
    """What an endpoint takes. Every request that succeeds is valid; a valid one can still contradict itself."""
    return {
        "$schema": _DRAFT,
        "title": f"intarsia request: {endpoint.name}",
        "description": f"{endpoint.title} (POST {endpoint.path}; documents {', '.join(endpoint.documents)}).",
        "type": "object",
        "properties": {name: _property(name, field, endpoint) for name, field in endpoint.fields.items()},
        "required": list(endpoint.required),
        "additionalProperties": True,
    }


def _property(name: str, field: Field, endpoint: Endpoint) -> Schema:
    """A field's schema: null is the same as absent, and so is "" for some, unless the field must be there."""
    forms = field.type.schema()
    if name not in endpoint.required and forms:
        absent: list[Schema] = [{"type": "null"}]
        if field.blank:
            absent.append({"type": "string", "pattern": r"^\s*$"})
        forms = {"anyOf": [*forms.get("anyOf", [forms]), *absent]}
    default = {"default": endpoint.defaults[name]} if name in endpoint.defaults else {}
    return {"description": field.description, **forms, **default}


def reply_schemas(endpoint: Endpoint) -> dict[str, Schema]:
    """The replies of an endpoint by status: ``success``, ``processing`` (a server's), ``error``."""
    meta = {"type": "object", "description": "Effective parameters; flags are yes or no."}
    shared: Schema = {"tip": {"type": "string"}, "id": {"type": "integer"}, "meta": meta}
    if not endpoint.realtime:
        shared["webhook_status"] = {"type": "string"}

    success = {
        "generationTime": {"type": "number", "minimum": 0, "description": "Seconds."},
        "output": _URLS | {"description": "File paths, URLs or raw base64, one for each sample."},
        "proxy_links": _URLS | {"description": "The same as output."},
        "nsfw_content_detected": {"type": "boolean", "description": "Whether any image was found unsafe."},
        **shared,
    }
    processing = {
        "eta": {"type": "number", "minimum": 0, "description": "Seconds."},
        "message": {"type": "string"},
        "fetch_result": {"type": "string", "description": "URL that has the reply when it is done."},
        "output": _URLS | {"maxItems": 0},
        "future_links": _URLS | {"description": "URLs of the images; 404 until they are written."},
        **shared,
    }
    if not endpoint.realtime:
        processing["tip_1"] = {"type": "string"}

    # Of a request that had a webhook; the document's errors have no more than a message.
    failed = {} if endpoint.realtime else {"webhook_status": {"type": "string"}}
    track_id = {"track_id": {"type": ["string", "number", "boolean"], "description": "As given; absent without."}}
    return {
        "success": _reply("success", success, track_id),
        "processing": _reply("processing", processing, track_id),
        "error": _reply("error", {"message": {"type": "string", "minLength": 1}}, failed),
    }


def _reply(status: str, properties: Schema, optional: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {"status": {"const": status}, **properties, **optional},
        "required": ["status", *properties],
        "additionalProperties": False,
    }


def openapi() -> Schema:
    """An OpenAPI 3.1 document of the four endpoints; the two that share a URL are one operation there."""
    schemas: Schema = {}
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in ENDPOINTS.values():
        by_path.setdefault(endpoint.path, []).append(endpoint)
        request = request_schema(endpoint)
        del request["$schema"]
        schemas[_named(endpoint, "request")] = request
        schemas |= {_named(endpoint, status): schema for status, schema in reply_schemas(endpoint).items()}

    return {
        "openapi": "3.1.0",
        "info": {
            "title": "intarsia: documented inpainting requests",
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "jsonSchemaDialect": _DRAFT,
        "paths": {path: {"post": _operation(endpoints)} for path, endpoints in by_path.items()},
        "components": {"schemas": schemas},
    }


def _operation(endpoints: list[Endpoint]) -> Schema:
    names = [endpoint.name for endpoint in endpoints]
    description = f"Endpoint {names[0]}."
    if len(names) > 1:
        description = f"Endpoints {' and '.join(names)} share this URL: the model's family decides between them."
    statuses = ("success", "processing", "error")
    done = _content([_ref(endpoint, status) for endpoint in endpoints for status in statuses])
    failed = _content([_ref(endpoint, "error") for endpoint in endpoints])
    return {
        "operationId": "_or_".join(names).replace("-", "_"),
        "summary": "; ".join(endpoint.title for endpoint in endpoints),
        "description": description,
        "requestBody": {"required": True, **_content([_ref(endpoint, "request") for endpoint in endpoints])},
        "responses": {
            "200": {"description": "The images, or the promise of them, or an error.", **done},
            "400": {"description": "A field that means nothing or cannot be honored.", **failed},
            "401": {"description": "The key is missing or wrong, where keys are configured.", **failed},
            "500": {"description": "The request failed inside intarsia.", **failed},
        },
    }


def _content(refs: list[Schema]) -> Schema:
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"content": {"application/json": {"schema": schema}}}


def _ref(endpoint: Endpoint, kind: str) -> Schema:
    return {"$ref": f"#/components/schemas/{_named(endpoint, kind)}"}


def _named(endpoint: Endpoint, kind: str) -> str:
    words = [*endpoint.name.split("-"), kind]
    return "".join(word.capitalize() for word in words)
