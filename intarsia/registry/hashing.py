"""sha256 of weight files: read once, and where there is much to read, several at once by threads."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from intarsia.checkpoints.files import regular
from intarsia.errors import WeightsError
from intarsia.registry.hash_cache import LEAST_BYTES, FileVersion, cached_sha256, keep_sha256

__all__ = ["Hashes", "nothing"]

# Fewer bytes than this are hashed by the caller: in 40 ms, which no other work could hide.
_LEAST_BYTES = 64 * 2**20
# Between two chunks a thread waits for the interpreter's lock, up to 5 ms where another thread imports.
_CHUNK = 8 * 2**20
_MOST_THREADS = 8

# Of this process. Keyed by size, time and inode as well, so that a changed file is hashed anew.
_known: dict[FileVersion, str] = {}


def nothing() -> None:
    """Does nothing: the default work while files are hashed."""


class Hashes:
    """Hashes of some files, asked for in their order by :meth:`of`.

    The first one that has not been read in this process starts threads, which read it and those behind it, the largest
    first. What goes wrong in a thread is not kept: :meth:`of` meets it again, so errors come in the order of asking.

    Args:
        files: in the order in which they will be asked for.
        meanwhile: called once while threads read; not called where there is little to read.
        anew: read every file, whatever is known of it from before: for finding damage that no size or time shows.
    """

    def __init__(self, files: Iterable[Path], meanwhile: Callable[[], None] = nothing, *, anew: bool = False) -> None:
        self._ahead = list(files)
        self._meanwhile = meanwhile
        if anew:
            for path in self._ahead:
                _forget(path)
        self._anew = anew

    def of(self, path: Path) -> str:
        """Hexadecimal sha256 of a file as it is now.

        Raises:
            WeightsError: not a regular file.
            OSError: it cannot be read.
        """
        known = _lookup(_version(path), self._anew)
        if known is not None:
            return known

        files, self._ahead = self._ahead, []
        if path in files:
            _read_ahead(files[files.index(path) :], self._meanwhile, self._anew)
        return _sha256(path, threading.Event())


def _forget(path: Path) -> None:
    with suppress(WeightsError):  # it is met again when it is asked for
        _known.pop(_version(path), None)


def _lookup(version: FileVersion, anew: bool = False) -> str | None:
    """The hash from this process, or from an earlier one; None where the file must be read."""
    known = _known.get(version)
    if known is None and not anew and version.size >= LEAST_BYTES:
        known = cached_sha256(version)
        if known is not None:
            _known[version] = known
    return known


def _read_ahead(files: Sequence[Path], meanwhile: Callable[[], None], anew: bool) -> None:
    """Hash files in threads, which have ended when this returns or raises."""
    sizes = {path: _unread_bytes(path, anew) for path in files}
    if sum(sizes.values()) < _LEAST_BYTES:
        return

    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    unread = [path for path, size in sizes.items() if size]
    largest_first = sorted(unread, key=lambda path: -sizes[path])
    for path in largest_first:
        waiting.put(path)

    stop = threading.Event()
    threads = []
    for _ in range(min(len(unread), _cores(), _MOST_THREADS)):
        thread = threading.Thread(
            target=_read_waiting,
            args=(waiting, stop),
            name="intarsia-hash",
            daemon=True,
        )
        threads.append(thread)

    try:
        with suppress(RuntimeError, MemoryError):  # no thread can be started: each hash is then computed on demand
            for thread in threads:
                thread.start()
        meanwhile()
        _join(threads)
    finally:
        stop.set()
        _join(threads)


def _join(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        if thread.is_alive():  # an interrupt may have come before it was started
            thread.join()


def _read_waiting(waiting: queue.SimpleQueue[Path], stop: threading.Event) -> None:
    """Hash one file after the other until none is left."""
    while not stop.is_set():
        try:
            path = waiting.get_nowait()
        except queue.Empty:
            return
        with suppress(_Stopped, WeightsError, OSError, MemoryError):  # see Hashes
            _sha256(path, stop)


def _sha256(path: Path, stop: threading.Event) -> str:
    """From the hashes of this process, or from the file."""
    version = _version(path)
    if version not in _known:
        sha256 = _read(path, stop)
        if _version(path) != version:  # it was written meanwhile: what was read is no content that it had
            raise WeightsError(f"{path}: changed while it was read")
        _known[version] = sha256
        keep_sha256(version, sha256)
    return _known[version]


def _read(path: Path, stop: threading.Event) -> str:
    """hashlib and raw files let other threads run while they work on a chunk."""
    digest = hashlib.sha256()
    chunk = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            if stop.is_set():
                raise _Stopped
            digest.update(chunk[:count])
    return digest.hexdigest()


def _version(path: Path) -> FileVersion:
    return FileVersion.of(path, regular(path))


def _unread_bytes(path: Path, anew: bool) -> int:
    """Bytes of a file still to be hashed; 0 where its hash is known, or it is not there."""
    try:
        version = _version(path)
    except WeightsError:
        return 0
    return 0 if _lookup(version, anew) else version.size


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Stopped(Exception):
    """The rest of a file's hash is not needed any more."""
