"""A real server in this process: uvicorn on a free port of loopback, over the null backend unless another is asked for.

Every reply of a documented route is held against the documents' own schemas (:mod:`tests.server.documented_schemas`),
so that each test that speaks to a server checks them too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from intarsia.server.app import create_app, guarded
from intarsia.server.services import Services
from intarsia.server.serving import configuration, listen
from intarsia.server.settings import EngineSettings, ServeSettings
from tests.server.documented_schemas import CheckedReplies

NULL = EngineSettings(backend="null")


@dataclass(frozen=True)
class Running:
    """A running server: where it is, what is behind it, and a client for it."""

    url: str
    services: Services
    client: httpx2.Client


@contextlib.contextmanager
def running(data: Path, **settings: Any) -> Iterator[Running]:
    """Serve until the block ends. Raises AssertionError where a reply was not as documented."""
    chosen = ServeSettings(**{"data": data, "port": 0, "engine": NULL, "isolate": False, **settings})
    listening = listen(chosen)
    services = Services.open(chosen)
    application = CheckedReplies(create_app(services))
    server = uvicorn.Server(configuration(guarded(application, services), services))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    services.start()
    thread.start()

    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            yield Running(url, services, client)
    finally:
        services.stop_waiting()
        server.should_exit = True
        thread.join(60)
        services.close()
        listening.close()
        assert not thread.is_alive(), "the server did not end"
    assert application.faults == []
