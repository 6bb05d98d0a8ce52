"""Hashes of large files, kept between processes: by path, size, time and inode, in the user's cache folder.

One line of JSON for each hash, appended, so that processes can write at the same time; a line that is damaged is passed
over, and the last one for a file counts. Without a folder that can be written, hashes are computed anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from intarsia.former_name import NAME

__all__ = ["LEAST_BYTES", "FileVersion", "cached_sha256", "keep_sha256"]

LEAST_BYTES = 2**20
"""Smaller files are hashed faster than they are looked up."""

# A file that was written so shortly before may be written again without another time.
_SETTLED_SECONDS = 2.0
# Beyond so many bytes the file is started anew: 20,000 files, far more than anyone has.
_MOST_BYTES = 8 * 2**20
_SHA256_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class FileVersion:
    """What tells one content of a file from another without reading it."""

    path: str
    size: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path, stat: os.stat_result) -> FileVersion:
        """The version that a file has; links are followed, as by whoever reads it."""
        return cls(
            path=os.path.realpath(path),
            size=stat.st_size,
            changed_ns=stat.st_mtime_ns,
            inode=stat.st_ino,
        )


def cached_sha256(version: FileVersion) -> str | None:
    """The hash of that version of a file; None where it is not known."""
    try:
        stat = _file().stat()
    except OSError:
        return None
    return _known(_file(), stat.st_size, stat.st_mtime_ns).get(version)


def keep_sha256(version: FileVersion, sha256: str) -> None:
    """Keep a hash for later processes, as far as the file is settled and the cache can be written."""
    age = time.time() - version.changed_ns / 1e9
    if version.size < LEAST_BYTES or age < _SETTLED_SECONDS:
        return

    path = _file()
    line = json.dumps({**asdict(version), "sha256": sha256}) + "\n"
    with contextlib.suppress(OSError):  # a cache that is not there costs time, and nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _MOST_BYTES:
            path.unlink()
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(handle, "ab", buffering=0) as file:
            file.write(line.encode())


def _file() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path(NAME) / "sha256.jsonl"


@lru_cache(maxsize=2)
def _known(path: Path, size: int, changed_ns: int) -> dict[FileVersion, str]:
    """Every hash in the cache; keyed by size and time, so that what other processes add is seen."""
    known: dict[FileVersion, str] = {}
    with contextlib.suppress(OSError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                fields = json.loads(line)
                sha256 = str(fields.pop("sha256"))
                if len(sha256) == _SHA256_LENGTH:
                    known[FileVersion(**fields)] = sha256
    return known
