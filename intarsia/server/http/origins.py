"""Hosts and origins of requests: the names that this server may be called by, and the pages that may call it."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Origin", "Origins", "read_host", "read_origin"]

# An IPv6 address in brackets, or a name or IPv4 address; a port, which may be empty.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\]|([A-Za-z0-9_.-]+))(?::([0-9]{0,5}))?")
_ORIGIN = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port of a page (RFC 6454); the port is always there."""

    scheme: str
    host: str
    port: int


class Origins:
    """Decides by ``Host`` and ``Origin`` whether a request was meant for this server, and by whom.

    A page elsewhere can give its own name the address of this machine after it was loaded (DNS rebinding), and is then
    same-origin with this server for the browser. Its name in ``Host`` is what gives it away.

    Args:
        public_url: what the server is called from outside; "" where it has no such name.
        names: further names that ``Host`` may have.
        cors: origins, as addresses, whose pages may call this server.
    """

    def __init__(self, public_url: str = "", names: Iterable[str] = (), cors: Iterable[str] = ()) -> None:
        self._public = _origin_of(public_url)
        self._cors = frozenset(filter(None, map(_origin_of, cors)))

        own = {"localhost", socket.gethostname(), *names}
        if self._public is not None:
            own.add(self._public.host)
        self._names = frozenset(name.lower().rstrip(".") for name in own)

    @property
    def has_cors(self) -> bool:
        """Whether pages of any other origin may call this server."""
        return bool(self._cors)

    def is_own_host(self, host: str) -> bool:
        """Whether a host is a name of this server, or an IP address, which no name can be given to."""
        if host in self._names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def is_in_cors(self, origin: str) -> bool:
        """Whether an ``Origin`` is configured."""
        return read_origin(origin) in self._cors

    def is_own(self, origin: str, host: str) -> bool:
        """Whether an ``Origin`` is this server itself, as ``Host`` or the public address calls it.

        The scheme counts for the public address alone: behind a proxy that ends TLS it is not known here.
        """
        parsed, called = read_origin(origin), read_host(host)
        if parsed is None or called is None:
            return False
        if parsed == self._public:
            return True
        name, port = called
        return (parsed.host, parsed.port) == (name, port or _PORTS[parsed.scheme])


def read_host(value: str) -> tuple[str, int | None] | None:
    """``Host`` → name in lower case, without brackets and the root's dot, and port; None for what is no host."""
    match = _HOST.fullmatch(value)
    if match is None:
        return None
    name = (match[1] or match[2].removesuffix(".")).lower()
    port = int(match[3]) if match[3] else None
    return None if port is not None and port > _LAST_PORT else (name, port)


def read_origin(value: str) -> Origin | None:
    """``Origin`` → its parts; None for ``null`` and whatever else is not of http or https."""
    match = _ORIGIN.fullmatch(value)
    called = read_host(match[2]) if match is not None else None
    if match is None or called is None:
        return None
    scheme = match[1].lower()
    name, port = called
    return Origin(scheme, name, port or _PORTS[scheme])


def _origin_of(address: str) -> Origin | None:
    """The origin of an address that may have a path."""
    return read_origin("/".join(address.split("/")[:3]))
