"""The choice of an engine host: engines in processes of their own, one for each device, or one in this process."""

from __future__ import annotations

import subprocess
from pathlib import Path

from intarsia.errors import RequestError
from intarsia.server.engines.host import EngineHost, Listener
from intarsia.server.engines.process_host import ManyHosts, ProcessHost
from intarsia.server.settings import ServeSettings
from intarsia.server.store.files import FileStore, LocalFiles
from intarsia.server.store.remote_files import RemoteFiles

__all__ = ["open_files", "open_host"]


def open_files(data: Path, url: str) -> FileStore:
    """The store of inputs and outputs: at an fsspec URL, or, where that is empty, in the folder ``data``.

    Raises:
        OutputError, RequestError, BackendError: it cannot be opened.
    """
    if url.lower().startswith("memory:"):  # each process has its own
        message = "files: what is in memory is gone with its process; name a folder or an object store"
        raise RequestError("files", message=message)
    return RemoteFiles(url) if url else LocalFiles(data)


def open_host(
    settings: ServeSettings,
    files: FileStore,
    listener: Listener,
    *,
    started: list[subprocess.Popen[bytes]] | None = None,
) -> EngineHost:
    """Open the engine, or one for each device.

    Args:
        started: processes that were started ahead; those that are used are taken out of the list.

    Raises:
        BackendError: an engine in this process cannot be opened.
    """
    engine = settings.engine
    if len(engine.devices) == 1 and not settings.isolate:
        # A server whose engines have processes of their own imports no engine.
        from intarsia.server.engines.job_runner import JobRunner, open_engine

        return JobRunner(open_engine(engine, engine.devices[0]), files, listener)

    # A device may be named again: each has an engine of its own.
    hosts = []
    for device in engine.devices:
        process = started.pop() if started else None
        hosts.append(ProcessHost(settings, device, listener, started=process))
    return hosts[0] if len(hosts) == 1 else ManyHosts(hosts)
