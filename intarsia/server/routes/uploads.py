"""Images that are only stored, so that a later request can name them: ``base64_to_url`` of the hosted service."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intarsia.counted import counted
from intarsia.endpoints.replies import next_id
from intarsia.endpoints.temporary_files import KEPT_HOURS
from intarsia.errors import IntarsiaError, RequestError, expect
from intarsia.images.access import Access
from intarsia.images.encode import encode
from intarsia.images.sources import open_image
from intarsia.server.http.error_replies import HttpError
from intarsia.server.settings import HOUR, shown_seconds
from intarsia.server.store.files import FileStore, output_names
from intarsia.server.store.jobs import UPLOAD, Job
from intarsia.server.store.kept_uploads import BYTES, KeptUploads, UploadTotal
from intarsia.server.store.store import Store

__all__ = ["Uploads"]

# `init_image` under /image_editing, `base64_string` elsewhere.
_FIELDS = ("base64_string", "init_image")
_FORMS = "an image as base64 or as a data URI"


@dataclass(frozen=True, kw_only=True)
class Uploads:
    """Takes images in, up to a limit for each owner. Its methods may be called from any thread.

    Requests that come at the same time can exceed the limit by as many as are worked on at once.

    Args:
        access: what decoding one may take.
        most_images, most_bytes: that one owner may have stored.
        keep: seconds for which images are kept; uploaded ones for a day at most.
    """

    store: Store
    files: FileStore
    access: Access
    most_images: int
    most_bytes: int
    keep: float

    def accept(self, payload: Mapping[str, Any], owner: str) -> Job:
        """Decode an image and store it as PNG; it is kept as temporary outputs are.

        Raises:
            RequestError: there is no image, or it cannot be decoded.
            HttpError: the owner has stored as much as one may (429).
            OutputError, StoreError: it cannot be stored.
        """
        field, value = _given(payload)
        total = KeptUploads(self.store.database).of(owner)
        if total.images >= self.most_images:
            stored = counted(total.images, "uploaded image of this key is", "uploaded images of this key are")
            raise self._full(total, f"{stored} stored, of {self.most_images:,}")

        image = open_image(field, value, self.access)
        data, notes = encode(image.to_pil(), "PNG")
        if total.bytes + len(data) > self.most_bytes:
            taken = f"{total.bytes} bytes of this key's uploaded images are stored, of {self.most_bytes}"
            raise self._full(total, f"{taken}; this one has {len(data)} more")
        return self._stored(_job(owner, len(data), (*image.warnings, *notes)), data)

    def _stored(self, job: Job, data: bytes) -> Job:
        self.files.put_outputs([(job.files[0], data)])
        try:
            stored = self.store.accept(job, most=sys.maxsize).job  # it is not queued
        except IntarsiaError:
            self.files.remove_outputs(job.files)
            raise
        return stored

    def _full(self, total: UploadTotal, taken: str) -> HttpError:
        """429, with the time at which the oldest upload goes."""
        kept = min(self.keep, KEPT_HOURS * HOUR)
        if total.oldest is None:  # one image is more than an owner may have
            return HttpError(413, f"the image is too large to be stored: {taken}")
        left = max(1, round(total.oldest + kept - time.time()))
        message = f"{taken}; each is removed after {shown_seconds(kept)}, or send the image itself in the request"
        return HttpError(429, message, retry_after=left)


def _given(payload: Mapping[str, Any]) -> tuple[str, str]:
    """The field with the image, and what is in it."""
    field = next((name for name in _FIELDS if payload.get(name) not in (None, "")), None)
    if field is None:
        raise RequestError(_FIELDS[0], message=f"{_FIELDS[0]} is required")
    value = payload[field]
    expect(field, value, str, _FORMS)
    if "://" in value[:32]:
        raise RequestError(field, value, _FORMS)
    return field, value


def _job(owner: str, size: int, warnings: tuple[str, ...]) -> Job:
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
        result={BYTES: size},
    )
