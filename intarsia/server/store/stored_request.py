"""The request of a job as it is stored, read back with its images."""

from __future__ import annotations

from intarsia.engine.request import InpaintRequest
from intarsia.server.store.files import FileStore
from intarsia.server.store.jobs import Job

__all__ = ["stored_request"]

_IMAGES = ("init_image", "mask_image")


def stored_request(job: Job, files: FileStore) -> InpaintRequest:
    """The request of a job, with its images' bytes from the file store."""
    values = dict(job.request)
    # An image that is its own mask is one object, as the engine remarks on it.
    names = [name for name in _IMAGES if name in values]
    images = {sha256: files.input(sha256) for sha256 in {values[name]["sha256"] for name in names}}
    for name in names:
        values[name] = images[values[name]["sha256"]]
    if "ip_adapter" in values:
        adapter = values["ip_adapter"]
        values["ip_adapter"] = adapter | {"image": files.input(adapter["image"]["sha256"])}
    return InpaintRequest.parse(values)
