"""Images that are only stored, so that a later request can name them: ``base64_to_url`` of the hosted service."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from intarsia.endpoints.replies import next_id
from intarsia.errors import IntarsiaError, RequestError, expect
from intarsia.images.access import Access
from intarsia.images.encode import encode
from intarsia.images.sources import open_image
from intarsia.server.store.files import FileStore, output_names
from intarsia.server.store.jobs import UPLOAD, Job
from intarsia.server.store.store import Store

__all__ = ["store_upload"]

# `init_image` under /image_editing, `base64_string` elsewhere.
_FIELDS = ("base64_string", "init_image")
_FORMS = "an image as base64 or as a data URI"


def store_upload(payload: Mapping[str, Any], store: Store, files: FileStore, *, access: Access, owner: str) -> Job:
    """Decode an image and store it as PNG; it is kept as temporary outputs are.

    Raises:
        RequestError: there is no image, or it cannot be decoded.
        OutputError, StoreError: it cannot be stored.
    """
    field = next((name for name in _FIELDS if payload.get(name) not in (None, "")), None)
    if field is None:
        raise RequestError(_FIELDS[0], message=f"{_FIELDS[0]} is required")
    value = payload[field]
    expect(field, value, str, _FORMS)
    if "://" in value[:32]:
        raise RequestError(field, value, _FORMS)

    image = open_image(field, value, access)
    data, notes = encode(image.to_pil(), "PNG")
    job = _job(owner, (*image.warnings, *notes))

    files.put_outputs([(job.files[0], data)])
    try:
        stored, _ = store.accept(job, most=sys.maxsize)  # it is not queued
    except IntarsiaError:
        files.remove_outputs(job.files)
        raise
    return stored


def _job(owner: str, warnings: tuple[str, ...]) -> Job:
    """A job that is done: so that uploads have owners and ends of their time as results have."""
    now = time.time()
    return Job(
        id=next_id(),
        endpoint=UPLOAD,
        owner=owner,
        state="done",
        delivery={"temp": True},
        warnings=warnings,
        files=output_names(1),
        created=now,
        started=now,
        finished=now,
        result={},
    )
