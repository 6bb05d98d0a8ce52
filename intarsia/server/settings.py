"""What a server is started with, checked once."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from intarsia.counted import counted
from intarsia.errors import RequestError
from intarsia.server.http.origins import read_host, read_origin

__all__ = [
    "DAY",
    "HOUR",
    "EngineSettings",
    "ServeSettings",
    "default_data_folder",
    "is_loopback",
    "read_bytes",
    "read_seconds",
    "shown_seconds",
]

HOUR = 3600.0
DAY = 86400.0

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}
_BYTES = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
    "ti": 1024**4,
}
_LONGEST_NUMBER = 18
_DATABASES = ("sqlite", "postgresql+psycopg")

# A client must have the time to fetch what it asked for, and sweeps come once a minute.
_LEAST_KEPT, _MOST_KEPT = 60.0, 36_500 * DAY
_LEAST_DISK, _MOST_BYTES = 1000**2, 1000**6


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Arguments of :class:`intarsia.Engine`, as plain values that another process can be given.

    Attributes:
        devices: one engine is opened on each; several of them run in processes of their own.
    """

    backend: str = "auto"
    devices: tuple[str, ...] = ("auto",)
    weights: str | None = None
    slots: int | None = None
    kernels: str = "auto"
    capture: str = "auto"
    precision: str | None = None
    memory: str | None = None
    max_pixels: int | None = None


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Everything that a server is started with.

    Attributes:
        host, port: address to listen on; port 0 takes a free one. Another address than loopback needs ``keys``.
        data: folder of the database, the inputs and the outputs; one server at a time.
        keys: file of hashed keys; None asks nobody for a key.
        wait: seconds that a documented request is held before its reply says ``processing``, 0 … 600.
        queue: jobs that may be queued; one more is answered with 429.
        queue_share: of these, jobs of one key; None lets one key have all of them.
        rate: requests a second of one key, or of one address where there are no keys; twice as many may come at once.
            None is without a limit.
        public_url: what addresses in replies begin with; empty takes the request's own host.
        database: SQLAlchemy URL of a database that several servers may share; empty is SQLite in ``data``.
        files: fsspec URL of the images' store; empty is ``data``.
        models: ids that are opened at the start.
        keep: seconds for which finished jobs and their images are kept.
        disk_limit: bytes of stored images, above which the oldest finished ones are removed; None is without.
        uploads, upload_bytes: images that one key may have stored by uploading them, and the bytes of them; of all
            clients together where there are no keys.
        cors: origins whose pages may call this server.
        allowed_hosts: names, beside the machine's own, that a request's ``Host`` may have.
        allow_private_urls: images and webhooks may be at addresses that are not public.
        errors_as_200: documented errors have status 200.
        webhook_secret: signs webhooks; empty sends no signature.
        certificate, certificate_key: PEM files for https; None serves http.
        isolate: the engine runs in a process of its own, so that its work does not hold up replies, and a device that
            fails does not end the server; several devices have a process each in any case.

    Raises:
        RequestError: a value that is not allowed; the message names the option.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8765
    keys: Path | None = None
    wait: float = 20.0
    queue: int = 64
    queue_share: int | None = None
    rate: float | None = None
    public_url: str = ""
    database: str = ""
    files: str = ""
    models: tuple[str, ...] = ()
    engine: EngineSettings = field(default_factory=EngineSettings)
    keep: float = 7 * DAY
    disk_limit: int | None = None
    uploads: int = 1000
    upload_bytes: int = 2 * 1000**3
    cors: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allow_private_urls: bool = False
    errors_as_200: bool = False
    webhook_secret: str = ""
    certificate: Path | None = None
    certificate_key: Path | None = None
    isolate: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise RequestError("port", self.port, "between 0 and 65535")
        if not 0 <= self.wait <= 600:
            raise RequestError("wait", self.wait, "between 0 and 600 seconds")
        if self.rate is not None and not 0 < self.rate <= 1_000_000:
            raise RequestError("rate", self.rate, "above 0 and at most 1,000,000 requests a second")
        if not 1 <= self.queue <= 1_000_000:
            raise RequestError("queue", self.queue, "between 1 and 1,000,000")
        if self.queue_share is not None and not 1 <= self.queue_share <= self.queue:
            raise RequestError("queue-share", self.queue_share, f"between 1 and --queue, {self.queue}")
        if self.keys is None and not is_loopback(self.host):
            raise RequestError(
                "host",
                message=f"host {self.host} can be reached from other machines, which needs keys: make a file with "
                "intarsia keys add NAME --file keys.txt, and start with --keys keys.txt",
            )
        self._check_storage()
        self._check_addresses()

    def _check_storage(self) -> None:
        if not _LEAST_KEPT <= self.keep <= _MOST_KEPT:
            raise RequestError("keep", f"{self.keep:g}s", "between 60s and 36500d: images have to be fetched")
        if self.disk_limit is not None and not _LEAST_DISK <= self.disk_limit <= _MOST_BYTES:
            raise RequestError("disk-limit", self.disk_limit, "at least 1MB: images have to be fetched")
        if not 1 <= self.uploads <= 1_000_000:
            raise RequestError("uploads", self.uploads, "between 1 and 1,000,000 images")
        if not 1 <= self.upload_bytes <= _MOST_BYTES:
            raise RequestError("upload-bytes", self.upload_bytes, "a size such as 500MB, 20GB or 20GiB")

    def _check_addresses(self) -> None:
        if self.public_url and not _is_public_url(self.public_url):
            allowed = "an http or https address such as https://images.example.org, without user, password and query"
            raise RequestError("public-url", self.public_url, allowed)
        for origin in self.cors:
            if read_origin(origin.removesuffix("/")) is None:
                allowed = "an origin such as https://app.example.org: scheme and host, perhaps a port, and no path"
                raise RequestError("cors", origin, allowed)
        for name in self.allowed_hosts:
            host = read_host(name)
            if host is None or host[1] is not None:
                allowed = "a host name such as images.example.org, without scheme, port, path and wildcards"
                raise RequestError("allow-host", name, allowed)

        scheme = self.database.partition("://")[0]
        if self.database and scheme not in _DATABASES:
            allowed = "postgresql+psycopg://user:password@host/name, or sqlite:///path"
            raise RequestError("database", message=f"database must be {allowed}; its scheme is {scheme!r}")


def _is_public_url(address: str) -> bool:
    """Whether an address is scheme, host and perhaps a path: what others can be appended to and called by."""
    try:
        parts = urlsplit(address)
    except ValueError:  # of a bracket that is not closed
        return False
    if not address.isprintable() or " " in address or parts.query or parts.fragment:
        return False
    return read_origin(f"{parts.scheme}://{parts.netloc}") is not None


def default_data_folder() -> Path:
    """Where a server keeps its jobs and images, unless another folder is named."""
    from platformdirs import user_data_path

    return user_data_path("intarsia") / "server"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on that address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_seconds(option: str, text: str) -> float:
    """``90s``, ``30m``, ``24h``, ``7d``, ``2w`` → seconds."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text.lower())
    if match is None:
        raise RequestError(option, text, "a time such as 90s, 30m, 24h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def shown_seconds(seconds: float) -> str:
    """Seconds in the largest unit that leaves few digits: ``7 days``, ``36 hours``, ``90 seconds``."""
    units = {"day": DAY, "hour": HOUR, "minute": 60.0}
    whole = (name for name, unit in units.items() if seconds >= unit and seconds % unit == 0)
    many = (name for name, unit in units.items() if seconds >= 10 * unit)
    name = next(chain(whole, many), "second")
    count = round(seconds / units.get(name, 1.0))
    return counted(count, name)


def read_bytes(option: str, text: str) -> int:
    """``500MB``, ``20GB``, ``20GiB`` or plain bytes → bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if match is None or match[2] not in _BYTES or len(match[1]) > _LONGEST_NUMBER:
        raise RequestError(option, text, "a size such as 500MB, 20GB or 20GiB")
    return int(float(match[1]) * _BYTES[match[2]])
