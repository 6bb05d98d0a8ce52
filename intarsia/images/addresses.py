"""Hosts and addresses: what a name resolves to, and which addresses are public."""

from __future__ import annotations

import ipaddress
import socket

__all__ = ["is_public", "look_up"]

# Global by the standard library, but not to be reached through us: IETF protocol assignments
# (with one cloud's metadata service), the retired 6to4 relays, Azure's host agent, documentation (RFC 9637).
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")))
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA has given out for unicast, RFC 4291
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052; its local-use neighbor 64:ff9b:1::/48 is not public


def look_up(host: str, port: int) -> list[str]:
    """Every address that the system's resolver has for ``host``, in its order, each once.

    Numbers are read as the C library reads them: ``127.1``, ``0x7f000001`` and ``2130706433`` are addresses too.

    Raises:
        OSError, UnicodeError: there is no such host, or no resolver answers.
    """
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(socket_address[0]) for *_, socket_address in entries]
    return list(dict.fromkeys(addresses))


def is_public(address: str) -> bool:
    """Whether an address can belong to a public host.

    Not private, shared, loopback, link-local, multicast, reserved, unspecified or for documentation; an IPv6
    address that carries an IPv4 one (mapped, 6to4, NAT64) is judged by what it carries.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = _carried(parsed)
        if inner is not None:
            return is_public(str(inner))
        if parsed not in _GLOBAL_UNICAST:
            return False
    if any(parsed in network for network in _NOT_PUBLIC):
        return False
    return parsed.is_global and not parsed.is_multicast


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that traffic to ``address`` may end at, if it names one."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
