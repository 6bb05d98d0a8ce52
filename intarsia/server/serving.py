"""Listening: the socket, uvicorn, and what is printed at the start."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from intarsia.errors import BackendError, RequestError
from intarsia.server.app import create_app
from intarsia.server.services import Services
from intarsia.server.settings import ServeSettings

__all__ = ["listen", "serve"]

# Seconds that open requests are given to end, once the server is asked to: whoever waits for a job is answered at
# once with `processing`.
_GRACE = 5

_BACKLOG = 1024


class _Server(uvicorn.Server):
    """uvicorn's server, which tells those who wait for a job that it is about to end."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        services.on_failure = self._end

    def _end(self) -> None:
        self._services.is_closing = True
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second interrupt does not wait for open requests.

        uvicorn would raise the signal again once it has ended; an end that was asked for is none that failed.
        """
        self._services.is_closing = True
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def serve(settings: ServeSettings, announce: Callable[[str], None] = print) -> None:
    """Serve until a signal ends it.

    Args:
        announce: is given the lines that say where the server is.

    Raises:
        RequestError: the address cannot be listened on.
        BackendError: no engine can be opened, now or at a later start of its process.
        IntarsiaError: folder, database or registry cannot be opened.
    """
    listening = listen(settings)
    try:
        services = Services.open(settings)
        config = uvicorn.Config(
            create_app(services),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.certificate_key,
        )
        server = _Server(config, services)
        try:
            services.start()
            for line in _addresses(settings, listening):
                announce(line)
            server.run(sockets=[listening])
        finally:
            services.close()
    finally:
        listening.close()
    if services.failure:
        raise BackendError(services.failure)


def listen(settings: ServeSettings) -> socket.socket:
    """A listening socket, bound before anything is opened, so that a port in use is one clear line."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host.strip("[]"), settings.port))
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        where = f"{settings.host}:{settings.port}"
        raise RequestError("port", message=f"port: cannot listen on {where}: {exc.strerror or exc}") from exc
    return listening


def _addresses(settings: ServeSettings, listening: socket.socket) -> list[str]:
    port = listening.getsockname()[1]
    scheme = "https" if settings.certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base = settings.public_url.rstrip("/") or f"{scheme}://{host}:{port}"
    return [
        f"intarsia serves on {base}",
        f"  community and pony   {base}/api/v6/images/inpaint",
        f"  enterprise pony      {base}/api/v1/enterprise/pony/inpaint",
        f"  realtime             {base}/api/v6/realtime/inpaint",
        f"  API documentation    {base}/docs",
    ]
