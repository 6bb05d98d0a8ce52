"""Files of a registry entry on disk: locate, hash, verify."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from intarsia.checkpoints.files import is_there, read_json, regular
from intarsia.checkpoints.layout import SCHEDULER, files_read
from intarsia.errors import WeightsError, shown
from intarsia.registry.entries import PARTS, Entry, ModelEntry, PartEntry, PinnedFile
from intarsia.registry.hashing import Hashes, nothing

__all__ = ["FileState", "check", "entry_hash", "locate", "scheduler_config", "verify"]

# The file that tells a folder of each kind from any other; a LoRA is one file.
_NEEDED = {
    "models": "model_index.json",
    "vaes": "config.json",
    "ip_adapters": "ip_adapter.safetensors",
    "safety": "config.json",
}
_PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")


State = Literal["ok", "missing", "size", "hash"]
"""What verification says of a file; ``size`` and ``hash`` are what differs."""


@dataclass(frozen=True)
class FileState:
    """One pinned file, and what verification says of it."""

    file: PinnedFile
    state: State


def locate(entry: Entry) -> Path:
    """The entry's folder, or a LoRA's file. Missing, of the wrong kind, or pickled: :class:`WeightsError`."""
    path = entry.path
    kind = _kind(entry)
    if path.suffix in _PICKLED:
        raise WeightsError(
            f"{entry.id}: {path.name} is a pickled checkpoint, which can run code when opened; "
            "only safetensors are loaded (convert it first)"
        )

    if kind == "loras":
        return _locate_file(entry)
    if not os.path.isdir(path):
        problem = "is a file" if os.path.isfile(path) else "does not exist"
        raise WeightsError(f"{entry.id}: its folder {path} {problem} (declared in {entry.declared_in})")

    needed = path / _NEEDED[kind]
    if not is_there(needed):
        what = "diffusers" if kind == "models" else PARTS[kind]
        raise WeightsError(f"{entry.id}: {path} has no {needed.name}; expected a {what} folder")
    regular(needed)
    return path


def _locate_file(entry: Entry) -> Path:
    path = entry.path
    if path.suffix != ".safetensors":
        raise WeightsError(f"{entry.id}: a LoRA is one .safetensors file, not {path}")
    if not is_there(path):
        raise WeightsError(f"{entry.id}: its file {path} does not exist (declared in {entry.declared_in})")
    regular(path)
    return path


def _kind(entry: Entry) -> str:
    """The section that the entry is in."""
    if isinstance(entry, PartEntry):
        return entry.kind
    return "models"


def _folder(entry: Entry) -> Path:
    """What pinned names are relative to: the entry's folder, or the folder that its file lies in."""
    path = locate(entry)
    return path.parent if _kind(entry) == "loras" else path


def verify(entry: Entry) -> list[FileState]:
    """Compare every pinned file with its size and sha256; reads all of them."""
    folder = _folder(entry)
    hashes = Hashes(folder / pin.path for pin in entry.files)

    states = []
    for pin in entry.files:
        state = _state(folder / pin.path, pin, hashes)
        states.append(FileState(pin, state))
    return states


def check(entry: Entry, meanwhile: Callable[[], None] = nothing) -> Path:
    """The entry's folder (a LoRA's file), once every pinned file has been found whole; else :class:`WeightsError`.

    A file that was hashed before and has neither changed size nor time since is not hashed again in the
    same process.

    Args:
        meanwhile: called while much is hashed by threads.
    """
    folder = _folder(entry)
    hashes = Hashes((folder / pin.path for pin in entry.files), meanwhile)
    for pin in entry.files:
        path = folder / pin.path
        if not os.path.exists(path):
            raise WeightsError(f"{entry.id}: {pin.path} is missing in {folder}")

        stat = regular(path)
        if stat.st_size != pin.bytes:
            raise WeightsError(
                f"{entry.id}: {pin.path} has {stat.st_size} bytes, not the {pin.bytes} of the registry; "
                "the file is damaged or another version"
            )
        if hashes.of(path) != pin.sha256:
            raise WeightsError(
                f"{entry.id}: {pin.path} does not have the registry's sha256 {pin.sha256[:12]}…; "
                "the file is damaged or another version"
            )
    return locate(entry)


def entry_hash(entry: Entry, meanwhile: Callable[[], None] = nothing) -> str:
    """sha256 over the names and hashes of the entry's files; from the pins alone where there are pins.

    Of a folder only what is read counts: a note beside the weights changes nothing. Links are followed.

    Args:
        meanwhile: called while much is hashed by threads.
    """
    if entry.files:
        lines = [f"{pin.path} {pin.sha256}" for pin in entry.files]
    else:
        lines = _lines_of_unpinned(entry, meanwhile)

    content = "\n".join(sorted(lines))
    return hashlib.sha256(content.encode()).hexdigest()


def _lines_of_unpinned(entry: Entry, meanwhile: Callable[[], None]) -> list[str]:
    """Name and hash of each file that is read."""
    folder = _folder(entry)
    paths = files_read(_kind(entry), locate(entry))
    hashes = Hashes(paths, meanwhile)

    lines = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        lines.append(f"{name} {hashes.of(path)}")
    return lines


def scheduler_config(entry: ModelEntry) -> dict[str, Any]:
    """The model's own scheduler configuration on top of its family's; small JSON, no weights are read.

    Where a model has none the plan has the family's; a backend that opens the model's files needs it there.
    """
    family = entry.shape.schedule
    path = entry.path / SCHEDULER
    if not is_there(path):
        return dict(family)

    stat = regular(path)
    config = _scheduler_json(path, stat.st_size, stat.st_mtime_ns)
    stated = {key: value for key, value in config.items() if value is not None or key not in family}
    return {**family, **stated}


@lru_cache(maxsize=64)
def _scheduler_json(path: Path, size: int, changed_ns: int) -> Mapping[str, Any]:
    """Keyed by size and time as well, so that a changed file is read anew. Shared by all callers: not to be changed."""
    config = read_json(path)
    for key, value in config.items():
        members = value if isinstance(value, list) else [value]
        is_nested = any(isinstance(member, dict | list) for member in members)
        if is_nested:
            raise WeightsError(f"{path}: {shown(key)} must be a text, a number or a list of them, not {shown(value)}")
    return config


def _state(path: Path, pin: PinnedFile, hashes: Hashes) -> State:
    if not os.path.exists(path):
        return "missing"
    if regular(path).st_size != pin.bytes:
        return "size"
    if hashes.of(path) != pin.sha256:
        return "hash"
    return "ok"
