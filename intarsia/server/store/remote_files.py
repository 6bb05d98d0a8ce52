"""A file store at any address that fsspec can open: a folder that several machines see, or an object store."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from intarsia.errors import BackendError, OutputError, RequestError, one_line
from intarsia.redact import redacted
from intarsia.server.store.files import is_input_name, is_output_name

__all__ = ["RemoteFiles"]

_PROBE = "writable"
_BEGAN = re.compile(r"[0-9a-f]{8,32}")


class RemoteFiles:
    """A :class:`intarsia.server.store.files.FileStore` behind an fsspec URL, such as ``s3://bucket/folder``.

    An object store shows an object when all of it is there. Elsewhere a file gets its name by a move, once it is
    written.

    Raises:
        RequestError: the URL means nothing to fsspec. BackendError: a package for its scheme is missing.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec

            self._system, self._root = fsspec.core.url_to_fs(url)
        except ImportError as exc:
            raise BackendError(f"files: {redacted(url)} needs another package: {one_line(exc)}") from exc
        except (ValueError, OSError) as exc:  # some clients look up or call their host already
            raise RequestError("files", message=f"files: {redacted(url)} cannot be opened: {one_line(exc)}") from exc
        self._moves = "file" in _protocols(self._system)
        with _translated("the file store cannot be opened"):
            for folder in ("inputs", "outputs"):
                self._system.makedirs(f"{self._root}/{folder}", exist_ok=True)

    def put_input(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        # Written again where it is there: its age is then that of its last use, which a sweep looks at.
        self._write(self._input(sha256), data)
        return sha256

    def input(self, sha256: str) -> bytes:
        with _translated(f"the input {sha256[:12]}… cannot be read"):
            return bytes(self._system.cat_file(self._input(sha256)))

    def put_outputs(self, files: Iterable[tuple[str, bytes]]) -> None:
        for name, data in files:
            self._write(self._output(name), data)

    def output(self, name: str) -> bytes | None:
        with _translated(f"the output {name} cannot be read"):
            try:
                return bytes(self._system.cat_file(self._output(name)))
            except FileNotFoundError:
                return None

    def remove_outputs(self, names: Iterable[str]) -> None:
        for name in names:
            with _translated(f"the output {name} cannot be removed"):
                self._remove(self._output(name))

    def remove_inputs(self, kept: Iterable[str], before: float) -> int:
        needed, removed = set(kept), 0
        self._sweep_unfinished(before)
        with _translated("the inputs cannot be listed"):
            for path in self._system.ls(f"{self._root}/inputs", detail=False):
                name = path.rpartition("/")[2]
                if not is_input_name(name) or name in needed or self._modified(path) >= before:
                    continue
                self._remove(path)
                removed += 1
        return removed

    def _sweep_unfinished(self, before: float) -> None:
        """Remove files that a process was killed in the middle of writing, once they are as old."""
        if not self._moves:
            return
        with _translated("the file store cannot be swept"):
            for folder in (self._root, f"{self._root}/inputs", f"{self._root}/outputs"):
                for path in self._system.ls(folder, detail=False):
                    name = path.rpartition("/")[2]
                    if _is_unfinished(name) and self._modified(path) < before:
                        self._remove(path)

    def output_bytes(self, names: Iterable[str] | None = None) -> int:
        with _translated("the outputs cannot be looked at"):
            if names is None:
                entries = self._system.ls(f"{self._root}/outputs", detail=True)
                return sum(int(entry["size"] or 0) for entry in entries)
            return sum(self._size(self._output(name)) for name in names)

    def check(self) -> None:
        self._write(f"{self._root}/{_PROBE}", b"x")

    def _write(self, path: str, data: bytes) -> None:
        with _translated("the file store cannot be written"):
            if not self._moves:
                self._system.pipe_file(path, data)
                return
            unfinished = f"{path}.{time.time_ns():x}"
            self._system.pipe_file(unfinished, data)
            self._system.mv(unfinished, path)

    def _remove(self, path: str) -> None:
        try:
            self._system.rm_file(path)
        except FileNotFoundError:
            return  # another removed it

    def _size(self, path: str) -> int:
        try:
            return int(self._system.size(path) or 0)
        except FileNotFoundError:
            return 0

    def _modified(self, path: str) -> float:
        """Unix time of a file's last writing."""
        return float(self._system.modified(path).timestamp())

    def _input(self, sha256: str) -> str:
        if not is_input_name(sha256):
            raise OutputError("an input is named by a SHA-256")
        return f"{self._root}/inputs/{sha256}"

    def _output(self, name: str) -> str:
        if not is_output_name(name):
            raise OutputError("that is not the name of an output")
        return f"{self._root}/outputs/{name}"


def _is_unfinished(name: str) -> bool:
    """Whether a name is one of ours with the time at which the writing began."""
    whole, _, began = name.rpartition(".")
    is_ours = is_input_name(whole) or is_output_name(whole) or whole == _PROBE
    return is_ours and _BEGAN.fullmatch(began) is not None


def _protocols(system: Any) -> tuple[str, ...]:
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """What storage and its client raise, of whichever package, is one clear error."""
    try:
        yield
    except OutputError:
        raise
    except Exception as exc:
        raise OutputError(f"{what}: {one_line(exc)}") from exc
