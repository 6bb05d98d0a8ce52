"""What every reply must be: plain JSON that the endpoint's own schema allows."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from intarsia.endpoints import ENDPOINTS, reply_schemas, request_schema

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install -e '.[dev]'")


@functools.cache
def validator(name: str, kind: str) -> jsonschema.Draft202012Validator:
    endpoint = ENDPOINTS[name]
    schema = request_schema(endpoint) if kind == "request" else reply_schemas(endpoint)[kind]
    return jsonschema.Draft202012Validator(schema)


def checked(reply: dict[str, Any], endpoint: str = "community") -> dict[str, Any]:
    """The reply, once it is plain JSON and what the endpoint documents."""
    assert json.loads(json.dumps(reply, allow_nan=False)) == reply
    validator(endpoint, reply["status"]).validate(reply)
    return reply
