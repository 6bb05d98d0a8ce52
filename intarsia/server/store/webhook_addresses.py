"""Addresses of webhooks, as far as they can be judged when a request comes: before the name of a host is looked up."""

from __future__ import annotations

import socket

from intarsia.errors import RequestError
from intarsia.images.addresses import is_public

__all__ = ["check_webhook"]

_SCHEMES = ("http", "https")


def check_webhook(url: str, *, allow_private_urls: bool) -> None:
    """Refuse an address that no call would go to, whatever its host's name means later.

    The guard of the call itself checks every address that a name has, when it is made.

    Raises:
        RequestError: it is no http address, has user and password in it, or names this machine or a private one.
    """
    import httpx2  # a tenth of a server's start, and few requests have a webhook

    try:
        parsed = httpx2.URL(url)
        host = parsed.raw_host.decode()
    except (httpx2.InvalidURL, ValueError):
        raise RequestError("webhook", message="webhook: the URL is not valid") from None
    is_port = parsed.port is None or 0 < parsed.port < 65536
    if parsed.scheme not in _SCHEMES or not host.strip(".") or not is_port:
        raise RequestError("webhook", message="webhook: the URL is not valid")
    if parsed.userinfo:
        raise RequestError("webhook", message="webhook: user name and password in a URL are not sent; leave them out")
    if not allow_private_urls and _is_private(host):
        reason = "its host is not public (private, local or reserved address)"
        message = f"webhook: {reason}; the server calls it only where it is started with --allow-private-urls"
        raise RequestError("webhook", message=message)


def _is_private(host: str) -> bool:
    """Whether a host is certainly not public: localhost, or such an address in any of the forms that resolvers read."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        # Numbers alone, so that nothing is looked up: 127.1, 0x7f000001 and 2130706433 are addresses too.
        entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False  # a name
    return not all(is_public(str(address[0])) for *_, address in entries)
