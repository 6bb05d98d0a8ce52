"""What a request may make this machine read, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

from inlay.errors import expect

__all__ = ["Access"]


@dataclass(frozen=True)
class Access:
    """The permissions and limits that a request's pictures are opened with.

    Attributes:
        allow_paths: files of this machine; False for a request that arrived over a network.
        allow_private_urls: URLs whose host is private, loopback, link-local or otherwise not public.
        max_bytes: largest picture taken from a URL, in bytes, after any decompression.
        seconds: longest time for one picture, from the look-up of the host's name to the last byte, redirects
            included.
        connect_seconds: longest time for one connection, TLS included.
        max_redirects: how many are followed; each target is checked as the first address was.
    """

    allow_paths: bool = True
    allow_private_urls: bool = False
    max_bytes: int = 64 * 1024 * 1024
    seconds: float = 30.0
    connect_seconds: float = 10.0
    max_redirects: int = 5

    def __post_init__(self) -> None:
        """Raises :class:`RequestError` for what is no plain yes or no: any text would count as yes."""
        expect("allow_paths", self.allow_paths, bool, "True or False")
        expect("allow_private_urls", self.allow_private_urls, bool, "True or False")
