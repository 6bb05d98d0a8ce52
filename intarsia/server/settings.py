"""What a server is started with, checked once."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from intarsia.errors import RequestError

__all__ = [
    "DAY",
    "EngineSettings",
    "ServeSettings",
    "default_data_folder",
    "is_loopback",
    "read_bytes",
    "read_seconds",
]

DAY = 86400.0

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}
_BYTES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
_DATABASES = ("sqlite", "postgresql+psycopg")


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
        self._check_addresses()

    def _check_addresses(self) -> None:
        for origin in (*([self.public_url] if self.public_url else []), *self.cors):
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                option = "public-url" if origin == self.public_url else "cors"
                raise RequestError(option, origin, "an http or https address such as https://images.example.org")

        scheme = self.database.partition("://")[0]
        if self.database and scheme not in _DATABASES:
            allowed = "postgresql+psycopg://user:password@host/name, or sqlite:///path"
            raise RequestError("database", message=f"database must be {allowed}; its scheme is {scheme!r}")


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


def read_bytes(option: str, text: str) -> int:
    """``500MB``, ``20GB``, ``20GiB`` or plain bytes → bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if match is None or match[2] not in _BYTES:
        raise RequestError(option, text, "a size such as 500MB, 20GB or 20GiB")
    return int(float(match[1]) * _BYTES[match[2]])
