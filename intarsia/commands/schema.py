"""``intarsia schema``: the documented requests and replies as JSON Schema, or all of them as OpenAPI."""

from __future__ import annotations

from typing import Annotated

import typer

from intarsia.commands.options import AlwaysJson, Endpoint
from intarsia.commands.streams import print_json
from intarsia.errors import RequestError

__all__ = ["schema"]


def schema(
    endpoint: Endpoint = None,
    openapi: Annotated[bool, typer.Option("--openapi", help="All endpoints as one OpenAPI 3.1 document.")] = False,
    as_json: AlwaysJson = True,
) -> None:
    """Print the JSON Schema of an endpoint's request and replies.

    Without --endpoint it is that of all endpoints.
    """
    from intarsia import endpoints

    if endpoint is not None and endpoint not in endpoints.ENDPOINTS:
        raise RequestError("--endpoint", endpoint, f"one of {', '.join(endpoints.ENDPOINTS)}")
    if openapi:
        if endpoint is not None:
            raise RequestError("--openapi", message="--openapi describes all endpoints; leave --endpoint out")
        print_json(endpoints.openapi())
        return
    chosen = [endpoint] if endpoint else list(endpoints.ENDPOINTS)
    schemas = {
        name: {
            "request": endpoints.request_schema(endpoints.ENDPOINTS[name]),
            "replies": endpoints.reply_schemas(endpoints.ENDPOINTS[name]),
        }
        for name in chosen
    }
    print_json(schemas[endpoint] if endpoint else schemas)
