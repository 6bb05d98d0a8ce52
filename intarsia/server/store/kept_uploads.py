"""How much each owner has stored by uploading: images and their bytes, until retention removes them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from intarsia.server.store.database import Database
from intarsia.server.store.jobs import UPLOAD
from intarsia.server.store.schema import JOBS

__all__ = ["BYTES", "KeptUploads", "UploadTotal"]

BYTES = "bytes"
"""The size of an uploaded image, in :attr:`intarsia.server.store.jobs.Job.result`."""


@dataclass(frozen=True, kw_only=True)
class UploadTotal:
    """What an owner's uploads take.

    Attributes:
        oldest: Unix time of the first of them; None where there is none.
    """

    images: int
    bytes: int
    oldest: float | None


class KeptUploads:
    """The uploads in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, owner: str) -> UploadTotal:
        """What an owner has stored and retention has not removed."""
        is_kept = sa.and_(JOBS.c.endpoint == UPLOAD, JOBS.c.owner == owner, sa.not_(JOBS.c.expired))
        query = sa.select(JOBS.c.result, JOBS.c.created).where(is_kept)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        sizes = [json.loads(result).get(BYTES, 0) for result, _ in rows]
        return UploadTotal(images=len(rows), bytes=sum(sizes), oldest=min((row.created for row in rows), default=None))
