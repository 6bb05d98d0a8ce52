"""Files of a registry entry on disk: locate, hash, verify."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from inlay.engine.registry import ModelEntry, PinnedFile
from inlay.errors import WeightsError

__all__ = ["FileState", "check", "locate", "model_hash", "scheduler_config", "verify"]

_PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class FileState:
    """What verification found of one pinned file: ``ok``, ``missing``, ``size`` or ``hash``."""

    file: PinnedFile
    state: str


def locate(entry: ModelEntry) -> Path:
    """The entry's folder. Missing, a single file, or pickled weights: :class:`WeightsError`."""
    folder = entry.path
    if folder.suffix in _PICKLED:
        raise WeightsError(
            f"{entry.id}: {folder.name} is a pickled checkpoint, which can run code when opened; "
            "only safetensors are loaded (convert it first)"
        )
    if not folder.is_dir():
        raise WeightsError(f"{entry.id}: its folder {folder} does not exist (declared in {entry.declared_in})")
    if not (folder / "model_index.json").is_file():
        raise WeightsError(f"{entry.id}: {folder} has no model_index.json; expected a diffusers folder")
    return folder


def verify(entry: ModelEntry) -> list[FileState]:
    """Compare every pinned file with its size and sha256; reads all of them."""
    folder = locate(entry)
    return [FileState(pin, _state(folder / pin.path, pin)) for pin in entry.files]


def check(entry: ModelEntry) -> Path:
    """The entry's folder, once every pinned file has been found whole; else :class:`WeightsError`.

    A file that was hashed before and has neither changed size nor time since is not hashed again in the
    same process.
    """
    folder = locate(entry)
    for pin in entry.files:
        path = folder / pin.path
        try:
            stat = path.stat()
        except OSError as exc:
            raise WeightsError(f"{entry.id}: {pin.path} is missing in {folder}") from exc
        if stat.st_size != pin.bytes:
            raise WeightsError(
                f"{entry.id}: {pin.path} has {stat.st_size} bytes, not the {pin.bytes} of the registry; "
                "the file is damaged or another version"
            )
        if _sha256(path, stat.st_size, stat.st_mtime_ns) != pin.sha256:
            raise WeightsError(
                f"{entry.id}: {pin.path} does not have the registry's sha256 {pin.sha256[:12]}…; "
                "the file is damaged or another version"
            )
    return folder


def model_hash(entry: ModelEntry) -> str:
    """sha256 over the names and hashes of the entry's files; from the pins alone where there are pins."""
    if entry.files:
        lines = [f"{pin.path} {pin.sha256}" for pin in entry.files]
    else:
        folder = locate(entry)
        used = [path for path in folder.rglob("*") if path.suffix in {".json", ".txt", ".safetensors"}]
        lines = [f"{path.relative_to(folder).as_posix()} {_hash_of(path)}" for path in used]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def scheduler_config(entry: ModelEntry) -> dict[str, Any]:
    """The model's own scheduler configuration on top of its family's; small JSON, no weights are read."""
    path = entry.path / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return dict(entry.shape.schedule)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as exc:
        raise WeightsError(f"{entry.id}: {path} cannot be read as JSON: {exc}") from exc
    if not isinstance(config, dict):
        raise WeightsError(f"{entry.id}: {path} must hold a JSON object")
    return {**entry.shape.schedule, **config}


def _state(path: Path, pin: PinnedFile) -> str:
    if not path.is_file():
        return "missing"
    if path.stat().st_size != pin.bytes:
        return "size"
    return "ok" if _hash_of(path) == pin.sha256 else "hash"


def _hash_of(path: Path) -> str:
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    """Keyed by size and time as well, so that a changed file is hashed anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
