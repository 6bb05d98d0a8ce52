"""API keys: a file of names and hashes, and whose key a request carries.

A key is 256 random bits. No guess is likelier than another, and nobody can try them all, so its plain SHA-256 is as
hard to turn back as the key is to guess. Salted, slow hashes are for passwords, which people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from intarsia.errors import RequestError, shown

__all__ = [
    "KeyEntry",
    "Keys",
    "candidate_key",
    "generate_key",
    "hash_of",
    "parse",
    "presented_keys",
    "read_file",
    "without_generated",
]

log = logging.getLogger("intarsia")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
NAMES = "1 to 64 of the letters, digits and . _ @ - that begin with a letter or a digit"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_GENERATED = re.compile(r"intarsia_[A-Za-z0-9_-]{20,}")

_LONGEST_KEY = 1024  # a body may be megabytes, and so may what stands there as its key
_LONGEST_FILE = 1 << 20

Stamp = tuple[int, int, int, int]
"""Device, inode, time of change and size of a file: another stamp is another content."""


@dataclass(frozen=True)
class KeyEntry:
    """A line of a keys file: the owner's name and ``sha256:<hex>`` of the key."""

    name: str
    hash: str


class Keys:
    """The keys of a file, read again when it changes. :meth:`owner` may be called from any thread.

    A file that has become unreadable or wrong changes nothing: the last good keys go on, and the log says so once.
    """

    def __init__(self, path: Path, entries: tuple[KeyEntry, ...], stamp: Stamp) -> None:
        self._path, self._entries = path, entries
        self._stamp: Stamp | None = stamp

    @classmethod
    def read(cls, path: Path) -> Keys:
        """The keys of a file.

        Raises:
            RequestError: it cannot be read, everybody may write it, it has no key, or a line is wrong; names the file
                and the line.
        """
        content, stamp = read_file(path)
        entries = parse(path, content)
        if not entries:
            message = (
                f"keys file {path} has no key, so nobody could send a request: intarsia keys add NAME --file {path}"
            )
            raise RequestError("keys", message=message)
        return cls(path, entries, stamp)

    @property
    def names(self) -> tuple[str, ...]:
        """The owners, in the order of the file."""
        return tuple(entry.name for entry in self._entries)

    def owner(self, candidate: str | None) -> str | None:
        """The name of a key's owner; None for no key and for one that is nobody's.

        Every entry is compared, each in constant time, so that the time taken says nothing about any of them.
        """
        self._reload()
        if not candidate or len(candidate) > _LONGEST_KEY:
            return None

        offered = hash_of(candidate)
        owner = None
        for entry in self._entries:
            if hmac.compare_digest(entry.hash, offered):
                owner = entry.name
        return owner

    def _reload(self) -> None:
        try:
            stamp: Stamp | None = _stamp(os.stat(self._path))
        except (OSError, ValueError):
            stamp = None
        if stamp == self._stamp:
            return

        # Taken over before it is read: a wrong file is reported once, not at every request.
        self._stamp = stamp
        try:
            content, self._stamp = read_file(self._path)
            self._entries = parse(self._path, content)
            if not self._entries:
                log.warning("keys file %s has no key any more: every request that needs one is refused", self._path)
        except RequestError as exc:
            log.error("%s; the keys that were read before stay valid", exc)


def generate_key() -> str:
    """A new key: 256 random bits, under a prefix by which it is recognized where it should not be."""
    return f"intarsia_{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """``sha256:<hex>`` of a key."""
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def without_generated(text: str) -> str:
    """The text with three stars in place of everything that looks like a key of :func:`generate_key`."""
    return _GENERATED.sub("***", text)


def candidate_key(body: Mapping[str, object] | None, headers: Mapping[str, str]) -> str | None:
    """The key that a request carries: of its body, else header ``key``, else ``Authorization: Bearer``.

    Args:
        body: the request's JSON object, where it has one; a ``key`` in it that is no text counts as none.
        headers: by lower-case names.
    """
    return next(iter(presented_keys(body, headers)), None)


def presented_keys(body: Mapping[str, object] | None, headers: Mapping[str, str]) -> list[str]:
    """Whatever a request carries at the places of a key, in the order in which :func:`candidate_key` looks."""
    in_body = body.get("key") if body is not None else None
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    found = [
        in_body if isinstance(in_body, str) else "",
        headers.get("key", ""),
        credentials if scheme.lower() == "bearer" else "",
    ]
    return [key.strip() for key in found if key.strip()]


def read_file(path: Path) -> tuple[bytes, Stamp]:
    """The content of a keys file, and the stamp that it had then.

    Raises:
        RequestError: it cannot be read, is no regular file, or everybody may write it.
    """
    try:
        # Non-blocking, as a pipe under that name would wait for its writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise RequestError("keys", message=f"keys file {path} is no regular file")
            content = file.read(_LONGEST_FILE + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise RequestError("keys", message=f"keys file {path} cannot be read: {reason}") from exc

    if os.name == "posix" and status.st_mode & stat.S_IWOTH:
        message = f"keys file {path} can be written by everybody, who could add a key to it: chmod 600 {path}"
        raise RequestError("keys", message=message)
    if len(content) > _LONGEST_FILE:
        raise RequestError("keys", message=f"keys file {path} is larger than {_LONGEST_FILE} bytes")
    return content, _stamp(status)


def parse(path: Path, content: bytes) -> tuple[KeyEntry, ...]:
    """The entries of a keys file.

    Raises:
        RequestError: names ``path`` and the first line that is wrong.
    """
    lines_of_names: dict[str, int] = {}
    lines_of_hashes: dict[str, int] = {}
    entries = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            entry = _entry(line.decode())
        except ValueError as exc:
            problem = "it is not UTF-8" if isinstance(exc, UnicodeDecodeError) else str(exc)
            raise RequestError("keys", message=f"keys file {path}, line {number}: {problem}") from exc
        if entry is None:
            continue

        earlier = lines_of_names.get(entry.name) or lines_of_hashes.get(entry.hash)
        if earlier is not None:
            what = f"the name {entry.name}" if entry.name in lines_of_names else "the same key"
            raise RequestError("keys", message=f"keys file {path}, line {number}: {what} is in line {earlier} too")
        lines_of_names[entry.name] = lines_of_hashes[entry.hash] = number
        entries.append(entry)
    return tuple(entries)


def _entry(line: str) -> KeyEntry | None:
    """None for a blank line or a comment; ValueError says what is wrong, without quoting what may be a key."""
    line = line.removeprefix("\ufeff").strip()
    if not line or line.startswith("#"):
        return None

    name, *rest = line.split()
    if NAME.fullmatch(name) is None:
        raise ValueError(f"a name must be {NAMES}, not {shown(without_generated(name))}")
    if len(rest) != 1 or _HASH.fullmatch(rest[0]) is None:
        raise ValueError("a line must be NAME sha256:HASH, with 64 hexadecimal digits; intarsia keys add writes it")
    return KeyEntry(name, rest[0])


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
