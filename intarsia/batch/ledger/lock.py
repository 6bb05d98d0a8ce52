"""One run at a time in an output folder. The lock dies with its process, whatever kills that."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from intarsia.errors import BackendError, OutputError

__all__ = ["NAME", "locked"]

NAME = ".intarsia-batch.lock"


@contextmanager
def locked(folder: Path, shard: tuple[int, int] = (1, 1)) -> Iterator[None]:
    """Hold the folder; shards of one division may hold it together, each once.

    Raises:
        OutputError: another run has it, or the folder cannot be made or written.
    """
    handles = _take_all(folder, shard)
    try:
        yield
    finally:
        for handle in handles:
            os.close(handle)


def _take_all(folder: Path, shard: tuple[int, int]) -> list[int]:
    part, parts = shard
    handles: list[int] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handles.append(_take(folder / NAME, shared=parts > 1, division=parts))
        if parts > 1:
            handles.append(_take(folder / f"{NAME}-{part}-of-{parts}", shared=False, division=parts))
    except BaseException as exc:
        for handle in handles:
            os.close(handle)
        if isinstance(exc, FileExistsError):
            raise OutputError(f"{folder} cannot be used for outputs: it is a file, not a folder") from exc
        if isinstance(exc, OSError):
            raise OutputError(f"{folder} cannot be used for outputs: {exc.strerror or exc}") from exc
        raise
    return handles


def _take(path: Path, shared: bool, division: int) -> int:
    """An open, locked file. It names the process that holds it, and the number of shards."""
    try:
        import fcntl
    except ModuleNotFoundError as exc:
        raise BackendError("intarsia batch run needs a POSIX system: it locks its output folder") from exc
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(handle, 0)
            os.write(handle, f"{division} process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError:
            if not shared:
                raise
        if shared:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            others, _, _ = _holder(handle).partition(" ")
            if int(others or division) != division:
                raise BlockingIOError
    except BlockingIOError as exc:
        _, _, holder = _holder(handle).partition(" ")
        os.close(handle)
        raise OutputError(f"{path.parent} is in use by another run ({holder or 'unknown'})") from exc
    except BaseException:
        os.close(handle)
        raise
    return handle


def _holder(handle: int) -> str:
    """The content of a lock file: the number of shards, and the process."""
    return os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
