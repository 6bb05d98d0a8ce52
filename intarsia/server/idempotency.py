"""The header ``Idempotency-Key``: a request that is sent again gives the job of the first one, no other request does.

It follows the IETF draft "The Idempotency-Key HTTP Header Field" (httpapi working group), section 2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intarsia.errors import RequestError
from intarsia.server.store.jobs import Job

__all__ = ["Idempotency", "KeyReused"]

_LONGEST = 200

_DIGEST = "request_digest"
"""Where the digest stands in :attr:`intarsia.server.store.jobs.Job.delivery`."""


class KeyReused(RequestError):
    """The header belongs to an earlier request that was another one."""


@dataclass(frozen=True)
class Idempotency:
    """The key of a request, and the digest of what it asks for.

    Two requests are equal where they came to the same endpoint with the same JSON, whatever the order of its fields,
    the API key left out.
    """

    key: str
    digest: str

    @classmethod
    def of(cls, key: str | None, endpoint: str | None, fields: object) -> Idempotency | None:
        """None without the header.

        Args:
            endpoint: which the address stands for.
            fields: the request's JSON, or the fields of a form with bytes in it.

        Raises:
            RequestError: the header is empty, too long or not printable.
        """
        if key is None:
            return None
        if not 1 <= len(key) <= _LONGEST or not key.isprintable():
            raise RequestError("Idempotency-Key", key, f"1 to {_LONGEST} printable characters")
        if isinstance(fields, Mapping):
            fields = {name: value for name, value in fields.items() if name != "key"}
        try:
            content = json.dumps([endpoint, fields], sort_keys=True, default=_hashed)
        except RecursionError:
            raise RequestError("request", message="the request's JSON is nested too deep") from None
        return cls(key, hashlib.sha256(content.encode()).hexdigest())

    @property
    def delivery(self) -> dict[str, str]:
        """What is kept with the job, for :meth:`check`."""
        return {_DIGEST: self.digest}

    def check(self, earlier: Job) -> Job:
        """The job that the key has given before.

        Raises:
            KeyReused: that was the job of another request.
        """
        if earlier.delivery.get(_DIGEST, self.digest) == self.digest:
            return earlier
        message = "Idempotency-Key was used for another request; give each request its own, and repeat one unchanged"
        raise KeyReused("Idempotency-Key", message=message)


def _hashed(value: Any) -> str:
    """Bytes of a file in a form, for JSON."""
    assert isinstance(value, bytes)
    return hashlib.sha256(value).hexdigest()
