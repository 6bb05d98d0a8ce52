"""Changes of a keys file: each whole or not at all, and one at a time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from intarsia.errors import OutputError, RequestError
from intarsia.images.atomic_files import edit_lock, flush_folder
from intarsia.server.http.keys import NAME, NAMES, generate_key, hash_of, parse, read_file

__all__ = ["add_key", "remove_key"]


def add_key(path: Path, name: str) -> str:
    """Add a new key for ``name`` to a file, which is made where there is none; returns the key, kept nowhere.

    Raises:
        RequestError: the name is not allowed or taken, or the file is wrong as it is.
        OutputError: it cannot be written; it is as it was.
    """
    if NAME.fullmatch(name) is None:
        raise RequestError("NAME", name, NAMES)

    key = generate_key()
    with edit_lock(path):
        content = read_file(path)[0] if os.path.lexists(path) else b""
        if name in {entry.name for entry in parse(path, content)}:
            message = f"{name} has a key in {path}; remove it first, or take another name for a second key"
            raise RequestError("NAME", name, message=message)

        if content and not content.endswith(b"\n"):
            content += b"\n"
        _replace(path, content + f"{name} {hash_of(key)}\n".encode())
    return key


def remove_key(path: Path, name: str) -> None:
    """Remove the key of ``name``; every other line stays as it is.

    Raises:
        RequestError: there is none, or the file is wrong as it is.
        OutputError: it cannot be written; it is as it was.
    """
    with edit_lock(path):
        content = read_file(path)[0]
        names = [entry.name for entry in parse(path, content)]
        if name not in names:
            message = f"{name} has no key in {path}; names in it: {', '.join(names) or 'none'}"
            raise RequestError("NAME", name, message=message)

        lines = content.split(b"\n")
        kept = [line for line in lines if name not in [entry.name for entry in parse(path, line)]]
        _replace(path, b"\n".join(kept))


def _replace(path: Path, content: bytes) -> None:
    """Put a new content in place. A new file is its owner's alone (0600); one that was there keeps owner and mode."""
    target = _target(path)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)  # made with mode 0600
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            _keep_access(target, handle)
            os.fsync(handle)
        os.replace(temporary, target)
        temporary = None
        flush_folder(target.parent)
    except OSError as exc:
        raise OutputError(f"{path} cannot be written: {exc.strerror or exc}") from exc
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _keep_access(target: Path, handle: int) -> None:
    """Give an open file the owner and mode of the one that it replaces: a server may run as another user."""
    if os.name != "posix" or not target.exists():
        return
    status = target.stat()
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(handle, status.st_uid, status.st_gid)
    os.fchmod(handle, status.st_mode & 0o777)


def _target(path: Path) -> Path:
    """The file itself where ``path`` is a link, which stays one."""
    return Path(os.path.realpath(path))
