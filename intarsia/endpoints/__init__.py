"""The four documented endpoints: documented JSON → ``InpaintRequest``, ``Result`` → documented JSON.

The main path: ``endpoint`` (all fields) and one file for each endpoint (its defaults and limits), on
``number_fields`` and ``text_fields`` (tolerant types) → ``reading`` → ``replies``. ``schemas`` writes all of it
down as JSON Schema. Nothing here imports the engine.
"""

from __future__ import annotations

from intarsia.endpoints.endpoint import Endpoint
from intarsia.endpoints.reading import ENDPOINTS, Documented, ReplyOptions, is_pony, read
from intarsia.endpoints.replies import Delivery, error_reply, next_id, success_reply
from intarsia.endpoints.schemas import openapi, reply_schemas, request_schema

__all__ = [
    "ENDPOINTS",
    "Delivery",
    "Endpoint",
    "Documented",
    "ReplyOptions",
    "error_reply",
    "is_pony",
    "next_id",
    "openapi",
    "read",
    "reply_schemas",
    "request_schema",
    "success_reply",
]
