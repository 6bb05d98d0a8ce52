"""Listening: the socket, uvicorn, and what is printed at the start."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from intarsia.errors import BackendError, RequestError
from intarsia.server.admission import RETRY_AFTER
from intarsia.server.app import create_app, guarded
from intarsia.server.certificate import check_certificate
from intarsia.server.engines.hosts import open_host
from intarsia.server.http.protocol import active, limited_protocol
from intarsia.server.logs import log_to_stderr
from intarsia.server.services import Services
from intarsia.server.settings import ServeSettings

__all__ = ["addresses", "configuration", "listen", "serve"]

# Seconds after which a thread that runs Python lets others run. A request's thread gives the interpreter up a dozen
# times, at each statement, hash and file: with Python's own 5 ms it would wait for as long each time.
_SWITCH = 0.0005

# Seconds that open requests are given to end, once the server is asked to: whoever waits for a job is answered at
# once with `processing`.
_GRACE = 5

_BACKLOG = 1024


class _Server(uvicorn.Server):
    """uvicorn's server, which tells those who wait for a job that it is about to end."""

    def __init__(self, config: uvicorn.Config, services: Services, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._services, self._announce = services, announce
        services.on_failure = self._end
        services.intake.admission.connected = partial(active, self.server_state.connections, RETRY_AFTER)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so: from here on a signal ends it in good order."""
        await super().startup(sockets)
        if not self.should_exit:
            _leave_out_of_collections()
            self._announce()

    def _end(self) -> None:
        self._services.stop_waiting()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second interrupt does not wait for open requests.

        uvicorn would raise the signal again once it has ended; an end that was asked for is none that failed.
        """
        self._services.stop_waiting()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def _leave_out_of_collections() -> None:
    """Have the garbage collector pass over what is there now: modules and the like, which stay to the end.

    It would look through all of them every few seconds under load, for a tenth of a second in which nobody is answered.
    A collection now would take as long, for less than a megabyte of garbage.
    """
    gc.freeze()


def serve(
    settings: ServeSettings,
    announce: Callable[[str], None] = print,
    *,
    started: list[subprocess.Popen[bytes]] | None = None,
) -> None:
    """Serve until a signal ends it.

    Args:
        announce: is given the lines that say where the server is, once it answers.
        started: engines' processes that were started ahead; those that are used are taken out of the list.

    Raises:
        RequestError: the address cannot be listened on.
        BackendError: no engine can be opened, now or at a later start of its process.
        IntarsiaError: folder, database or registry cannot be opened.
    """
    sys.setswitchinterval(_SWITCH)
    os.umask(0o077)  # prompts and images are nobody else's, also in a folder that was made before
    check_certificate(settings.certificate, settings.certificate_key)
    listening = listen(settings)
    try:
        services = Services.open(settings)
        config = configuration(guarded(create_app(services), services), services)
        lines = addresses(settings, listening)
        server = _Server(config, services, partial(_announce, lines, announce))
        try:
            log_to_stderr()
            services.start(partial(open_host, settings, services.files, started=started))
            server.run(sockets=[listening])
        finally:
            services.close()
    finally:
        listening.close()
    if services.failure:
        raise BackendError(services.failure)


def configuration(application: ASGIApp, services: Services) -> uvicorn.Config:
    """How uvicorn serves the guarded application."""
    settings = services.settings
    return uvicorn.Config(
        application,
        http=limited_protocol(count=services.metrics.refused),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Otherwise a client could choose the address that its limits count for.
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
        # Longer than a client is asked to wait after a refusal, so that it comes back on the same connection.
        timeout_keep_alive=2 * RETRY_AFTER,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.certificate_key,
    )


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


def _announce(lines: list[str], announce: Callable[[str], None]) -> None:
    for line in lines:
        announce(line)


def addresses(settings: ServeSettings, listening: socket.socket) -> list[str]:
    """The lines that say where a server is: for clients, and on which address it listens itself."""
    port = listening.getsockname()[1]
    scheme = "https" if settings.certificate else "http"
    name = settings.host.strip("[]")
    host = f"[{name}]" if ":" in name else name
    local = f"{scheme}://{host}:{port}"
    base = settings.public_url.rstrip("/") or local
    return [
        f"serves on {base}",
        *([f"  listens on           {local}"] if settings.public_url else []),
        f"  page                 {base}/",
        f"  community and pony   {base}/api/v6/images/inpaint",
        f"  enterprise pony      {base}/api/v1/enterprise/pony/inpaint",
        f"  realtime             {base}/api/v6/realtime/inpaint",
        f"  API documentation    {base}/docs",
    ]
