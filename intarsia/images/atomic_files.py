"""Files put in place: each whole or not at all, and several that belong together all or none."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from intarsia.errors import OutputError
from intarsia.former_name import FORMER, NAME

__all__ = ["ABANDONED_HOURS", "edit_lock", "flush_folder", "naming", "place", "sweep", "sweep_once"]

ABANDONED_HOURS = 24
"""After so long an unfinished file of ours is one that a killed process left."""

# Only what we wrote ourselves is ever removed.
_OURS = re.compile(rf"\.({NAME}|{FORMER})-[0-9a-f]{{16}}\.part")

# How file systems say that they have no hard links, or none of this file.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


@dataclass(eq=False, kw_only=True)
class _Placing:
    """One file on its way.

    Attributes:
        temporary: where it is written, beside ``path``.
        identity: device and inode, by which it is recognized under either name.
        previous: the file that was at ``path`` before, under a name of ours; None where there was none.
    """

    path: Path
    temporary: Path
    identity: tuple[int, int] | None = None
    previous: Path | None = None


def place(files: Sequence[tuple[Path, bytes]], *, overwrite: bool) -> None:
    """Write files, then give all of them their names; flushed to the disk.

    After a failure or an interruption none of them is there, and what was in their places is as it was. A process
    that is killed in between may leave some of them, whole, and unfinished ones that :func:`sweep` removes.

    Raises:
        OutputError: a file that cannot be written, or without ``overwrite`` one whose name is taken.
    """
    placings = [_Placing(path=path, temporary=_beside(path, "part")) for path, _ in files]
    try:
        for placing, (path, data) in zip(placings, files, strict=True):
            with naming(path):
                placing.identity = _write(placing.temporary, data)

        for placing in placings:
            with naming(placing.path):
                if overwrite:
                    _keep(placing)
                _publish(placing.temporary, placing.path, overwrite)

        for folder in dict.fromkeys(path.parent for path, _ in files):
            with naming(folder):
                flush_folder(folder)
    except BaseException:  # an interruption too must leave nothing behind
        for placing in reversed(placings):
            _undo(placing)
        raise

    for placing in placings:
        if placing.previous is not None:
            placing.previous.unlink(missing_ok=True)


def sweep(folder: Path, now: float | None = None) -> list[Path]:
    """Remove the unfinished files that killed processes left in a folder; returns what was removed."""
    now = time.time() if now is None else now
    oldest = now - ABANDONED_HOURS * 3600
    removed = []

    # Another process may sweep at the same time, and what cannot be removed now is met again next time.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            is_ours = _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if not is_ours:
                continue
            status = entry.stat(follow_symlinks=False)
            if status.st_mtime < oldest:
                os.unlink(entry.path)
                removed.append(Path(entry.path))
    return removed


@functools.lru_cache(maxsize=256)
def sweep_once(folder: Path) -> None:
    """:func:`sweep`, the first time that this process asks for it: a full folder takes a while to look through."""
    sweep(folder)


@contextlib.contextmanager
def edit_lock(path: Path) -> Iterator[None]:
    """Hold the folder of a file against other edits, where the system has locks (POSIX).

    Of a link it is the folder of the file that it leads to. The folder is locked rather than the file, as the file is
    replaced.

    Raises:
        OutputError: the folder cannot be opened.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        yield
        return

    folder = Path(os.path.realpath(path)).parent
    with naming(path):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems lock no folders; there, the last of two edits at the same time stands.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _beside(path: Path, suffix: str) -> Path:
    token = secrets.token_hex(8)
    return path.with_name(f".intarsia-{token}.{suffix}")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system become an OutputError that names a file."""
    try:
        yield
    except OSError as exc:
        raise OutputError(f"{path} cannot be written: {exc.strerror or exc}") from exc


def _write(temporary: Path, data: bytes) -> tuple[int, int]:
    # O_EXCL: never write through a link that someone put there; the mode follows the umask.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, 0o666)
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _keep(placing: _Placing) -> None:
    """Give the file that will be replaced a second name, from which it can be put back."""
    if not os.path.lexists(placing.path):
        return

    placing.previous = _beside(placing.path, "part")
    try:
        os.link(placing.path, placing.previous, follow_symlinks=False)
    except (OSError, NotImplementedError) as exc:
        if isinstance(exc, OSError) and exc.errno not in _NO_LINKS:
            raise
        placing.previous = _beside(placing.path, "old")  # the only name that it has then: never swept
        os.replace(placing.path, placing.previous)


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give the finished file its name, without replacing one that came in between unless that is asked."""
    if overwrite:
        os.replace(temporary, path)
        return

    try:
        os.link(temporary, path)  # unlike a rename it fails where the name is taken
    except FileExistsError:
        raise
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):  # a file system without hard links: the gap is as small as it can be
            raise FileExistsError(errno.EEXIST, "it is already there", str(path)) from exc
        os.replace(temporary, path)
    else:
        temporary.unlink()


def _undo(placing: _Placing) -> None:
    """Take the file away again, and put back what it replaced; what cannot be is left to the others."""
    with contextlib.suppress(OSError):
        is_there = placing.identity is not None and _identity(placing.path) == placing.identity
        if placing.previous is not None and (is_there or not os.path.lexists(placing.path)):
            os.replace(placing.previous, placing.path)
        elif is_there:
            placing.path.unlink()

    for path in (placing.temporary, placing.previous):
        if path is not None and path.suffix == ".part":
            with contextlib.suppress(OSError):
                path.unlink()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def flush_folder(folder: Path) -> None:
    """Make new names durable, where the system has a way to (POSIX)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(handle)
