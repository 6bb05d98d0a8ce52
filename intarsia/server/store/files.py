"""The file store of a server: inputs by the hash of their bytes, outputs by names that cannot be guessed."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Protocol

from intarsia.errors import OutputError, one_line
from intarsia.images.atomic_files import flush_folder, place, sweep

__all__ = ["FileStore", "FolderLock", "LocalFiles", "is_input_name", "is_output_name", "output_names"]

log = logging.getLogger("intarsia")

_OUTPUT = re.compile(r"[A-Za-z0-9_-]{22}-[0-3]\.png")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileStore(Protocol):
    """Where inputs and outputs are kept. Every method may be called from any thread.

    Raises:
        OutputError: the store cannot be written or read.
    """

    def put_input(self, data: bytes) -> str:
        """Keep an image's bytes; returns their SHA-256. Durable once it returns."""

    def input(self, sha256: str) -> bytes:
        """The bytes with that hash."""

    def put_outputs(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write a job's images, each whole, in place of earlier ones of the same names. Durable once it returns."""

    def output(self, name: str) -> bytes | None:
        """An image's bytes; None where there is none of that name."""

    def remove_outputs(self, names: Iterable[str]) -> None:
        """Remove images; those that are not there are none the less removed."""

    def remove_inputs(self, kept: Iterable[str], before: float) -> int:
        """Remove inputs last put before that Unix time, but for those ``kept``; returns how many.

        One that cannot be removed stays. What a killed process left unfinished goes too.
        """

    def output_bytes(self, names: Iterable[str] | None = None) -> int:
        """Bytes that these images take, or all with None."""

    def check(self) -> None:
        """Raise where the store cannot be written."""


def output_names(samples: int) -> tuple[str, ...]:
    """Names for a job's images: 128 random bits, and the sample."""
    token = secrets.token_urlsafe(16)
    return tuple(f"{token}-{sample}.png" for sample in range(samples))


def is_input_name(name: str) -> bool:
    """Whether a name is a SHA-256, as those of inputs are."""
    return _SHA256.fullmatch(name) is not None


def is_output_name(name: str) -> bool:
    """Whether a name is of the form of :func:`output_names`: nothing else is ever read or removed."""
    return _OUTPUT.fullmatch(name) is not None


class LocalFiles:
    """A :class:`FileStore` in a folder of this machine: ``inputs/<sha256>`` and ``outputs/<name>``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._inputs, self._outputs = root / "inputs", root / "outputs"
        # Between a sweep, which finds an input too old, and a job that needs it again.
        self._ageing = threading.Lock()
        # By the first digit of its hash: of those who put an input at the same time none goes on before it is durable.
        self._putting = [threading.Lock() for _ in range(16)]
        for folder in (self._inputs, self._outputs):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                flush_folder(folder)  # an earlier process may have been killed before it could
                flush_folder(root)
            except OSError as exc:
                raise OutputError(f"data: the folder {folder} cannot be made: {exc.strerror}") from exc

    def put_input(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._inputs / sha256
        with self._putting[int(sha256[0], 16)]:
            try:
                with self._ageing:
                    os.utime(path)  # a sweep leaves it alone from now on
            except FileNotFoundError:
                place([(path, data)], overwrite=True)
            except OSError as exc:
                raise OutputError(f"the input {sha256[:12]}… cannot be kept: {one_line(exc)}") from exc
        return sha256

    def input(self, sha256: str) -> bytes:
        if not is_input_name(sha256):
            raise OutputError("an input is named by a SHA-256")
        try:
            return (self._inputs / sha256).read_bytes()
        except OSError as exc:
            raise OutputError(f"the input {sha256[:12]}… cannot be read: {one_line(exc)}") from exc

    def put_outputs(self, files: Iterable[tuple[str, bytes]]) -> None:
        place([(self._output(name), data) for name, data in files], overwrite=True)

    def output(self, name: str) -> bytes | None:
        try:
            return self._output(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise OutputError(f"the output {name} cannot be read: {one_line(exc)}") from exc

    def remove_outputs(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self._output(name).unlink(missing_ok=True)
            except OSError as exc:
                raise OutputError(f"the output {name} cannot be removed: {one_line(exc)}") from exc

    def remove_inputs(self, kept: Iterable[str], before: float) -> int:
        needed, removed = set(kept), 0
        for path in list(self._inputs.iterdir()):
            if path.name not in needed and is_input_name(path.name):
                removed += self._remove_input(path, before)
        sweep(self._inputs, before)
        sweep(self._outputs, before)
        return removed

    def output_bytes(self, names: Iterable[str] | None = None) -> int:
        paths = self._outputs.iterdir() if names is None else map(self._output, names)
        total = 0
        for path in paths:
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                total += status.st_size
        return total

    def check(self) -> None:
        for folder in (self.root, self._inputs, self._outputs):
            probe = folder / f".writable-{secrets.token_hex(4)}"
            try:
                probe.write_bytes(b"x")
                probe.unlink()
            except OSError as exc:
                raise OutputError(f"data: the folder {folder} cannot be written: {exc.strerror}") from exc

    def _remove_input(self, path: Path, before: float) -> bool:
        try:
            with self._ageing:
                if path.stat().st_mtime >= before:
                    return False
                path.unlink()
        except FileNotFoundError:
            return False  # another removed it
        except OSError as exc:
            log.error("the input %s… cannot be removed, which is tried again: %s", path.name[:12], one_line(exc))
            return False
        return True

    def _output(self, name: str) -> Path:
        if not is_output_name(name):
            raise OutputError("that is not the name of an output")
        return self._outputs / name


class FolderLock:
    """Holds a data folder for one server: a second one is refused until this process has ended, however it ends.

    Raises:
        OutputError: another server has the folder, or it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file: IO[str] = (folder / "lock").open("a+")
        except OSError as exc:
            raise OutputError(f"data: the folder {folder} cannot be used: {exc.strerror}") from exc

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise OutputError(f"data: the folder {folder} is in use by a server ({holder})") from exc

        self._file.truncate(0)
        self._file.write(f"process {os.getpid()}")
        self._file.flush()

    def release(self) -> None:
        """Let another server have the folder."""
        self._file.close()
