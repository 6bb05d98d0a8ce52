"""The head of a request, as the guards read it from an ASGI scope."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.types import Scope

__all__ = ["RequestHead"]

_LENGTH = re.compile(r"[0-9]{1,19}")
_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, kw_only=True)
class RequestHead:
    """Method, decoded path, bytes of the undecoded path with its query, and headers in the order they came in.

    Names of headers are in lower case; there may be several of one name.
    """

    method: str
    path: str
    path_length: int
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, scope: Scope) -> RequestHead:
        """The head in an ASGI scope of type ``http``."""
        raw = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
        headers = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])
        return cls(
            method=scope["method"],
            path=scope["path"],
            path_length=len(raw) + len(scope.get("query_string", b"")),
            headers=tuple(headers),
        )

    def values(self, name: str) -> list[str]:
        """Every value of a header, without the blanks around it: those of RFC 9110, 5.5, and none of Latin-1's."""
        return [value.strip(" \t") for each, value in self.headers if each == name]

    @property
    def changes_state(self) -> bool:
        """Whether the method is one that may change something."""
        return self.method not in _SAFE

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks, for a page elsewhere, if it may send a request."""
        return self.method == "OPTIONS" and bool(self.values("origin") and self.values("access-control-request-method"))

    @property
    def has_body(self) -> bool:
        """Whether a body follows, be it of a size that is not known."""
        return bool(self.values("transfer-encoding")) or self.content_length != 0

    @property
    def content_length(self) -> int | None:
        """Bytes of the body; 0 where no header announces one, None where the number is not known before its end."""
        lengths = self.values("content-length")
        if self.values("transfer-encoding"):
            return None
        if not lengths:
            return 0
        return int(lengths[0]) if _LENGTH.fullmatch(lengths[0]) else None
