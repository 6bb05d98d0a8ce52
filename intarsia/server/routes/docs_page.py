"""``/docs`` and ``/openapi.json``: the OpenAPI document, also as one plain page without scripts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from intarsia.server.http.error_replies import json_response
from intarsia.server.http.route import Route, route
from intarsia.server.routes.openapi import openapi

__all__ = ["docs_routes", "page"]

_METHODS = ("get", "post", "delete")

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h3 code { font-weight: 600; }
section { border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent); padding: .5rem 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; overflow-wrap: anywhere; }
th { font-weight: 600; }
summary { cursor: pointer; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
"""


def docs_routes() -> list[Route]:
    """The document as JSON and as a page; both need no key, as they say nothing about this server."""
    return [route("/openapi.json", _json, "GET"), route("/docs", _docs, "GET", "HEAD")]


async def _json(request: Request) -> Response:
    return json_response(openapi())


async def _docs(request: Request) -> Response:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    headers = {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(page(), headers=headers, media_type="text/html")


@cache
def page() -> str:
    """The page."""
    document = openapi()
    info = document["info"]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['summary'])}</p>",
        '<p>This page as data: <a href="openapi.json">openapi.json</a> (OpenAPI 3.1).</p>',
    ]
    for tag in document["tags"]:
        parts += _tag(tag, document)
    parts += ["<h2>Schemas</h2>", *_schemas(document), "</body></html>"]
    return "\n".join(parts)


def _tag(tag: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """All operations of one tag."""
    yield f"<h2>{escape(tag['name'].capitalize())}</h2><p>{_text(tag['description'])}</p>"
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item and tag["name"] in item[method]["tags"]:
                yield from _operation(method, path, item[method])


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<section><h3><code>{method.upper()} {escape(path)}</code></h3>"
    yield f"<p>{_text(operation['summary'])}. {_text(operation.get('description', ''))}</p>"

    parameters = operation.get("parameters", [])
    rows = [
        (f"{each['name']} ({each['in']})", _kind(each["schema"]), each.get("description", "")) for each in parameters
    ]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        rows.append((media_type, _kind(content["schema"]), "body"))
    if rows:
        yield _table(("Takes", "", ""), rows)

    replies = []
    for status, response in operation["responses"].items():
        kinds = [_kind(content["schema"]) for content in response.get("content", {}).values()]
        replies.append((status, ", ".join(kinds), response["description"]))
    yield _table(("Gives", "", ""), replies) + "</section>"


def _schemas(document: dict[str, Any]) -> Iterator[str]:
    """Every component, folded, with its properties."""
    for name, schema in document["components"]["schemas"].items():
        rows = [(field, _kind(each), _about(each)) for field, each in schema.get("properties", {}).items()]
        description = _text(schema.get("description", ""))
        table = _table(("Field", "Type", ""), rows)
        yield f'<details id="{escape(name)}"><summary>{escape(name)}</summary><p>{description}</p>{table}</details>'


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words, as HTML; a component is a link to it."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)

    types = schema.get("type", "any")
    text = escape(" or ".join(types) if isinstance(types, list) else types)
    if "items" in schema:
        text += f" of {_kind(schema['items'])}"
    if "minimum" in schema and "maximum" in schema:
        text += f", {schema['minimum']} to {schema['maximum']}"
    return text


def _about(schema: dict[str, Any]) -> str:
    """A property's description and default."""
    text: str = schema.get("description", "")
    if schema.get("default") is not None:
        text += f" Default: `{json.dumps(schema['default'])}`."
    return text.strip()


def _table(head: tuple[str, str, str], rows: list[tuple[str, str, str]]) -> str:
    """A table; the middle column is HTML already."""
    header = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{_text(about)}</td></tr>"
        for name, kind, about in rows
    )
    return f"<table><tr>{header}</tr>{body}</table>"


def _text(text: str) -> str:
    """Text as HTML; what is between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
