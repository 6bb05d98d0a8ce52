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
from intarsia.checkpoints.identified import Identified
from intarsia.checkpoints.ip_adapter_layout import image_encoder
from intarsia.checkpoints.layout import SCHEDULER, files_read, network_files
from intarsia.checkpoints.probe import PICKLED, identify
from intarsia.errors import WeightsError, shown
from intarsia.registry.entries import PARTS, Entry, ModelEntry, PartEntry, PinnedFile
from intarsia.registry.hashing import Hashes, nothing

__all__ = [
    "FileState",
    "check",
    "entry_hash",
    "folder_hash",
    "identified",
    "locate",
    "read_files",
    "scheduler_config",
    "verify",
]

# The file that tells a folder of each kind from any other.
_NEEDED = {
    "models": "model_index.json",
    "vaes": "config.json",
    "ip_adapters": "ip_adapter.safetensors",
    "safety": "config.json",
}
# Sections whose entries may be one file; those of the second are nothing else.
_FILES_TOO = ("models", "vaes", "ip_adapters")
_FILES_ONLY = ("loras", "embeddings")
_FILE_NOUNS = {"loras": "a LoRA", "embeddings": "an embedding"}
_SUFFIX = ".safetensors"

# A network that was trained with a schedule that ends in noise has to begin there (Lin et al. 2024, section 3.3).
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


State = Literal["ok", "missing", "size", "hash"]
"""What verification says of a file; ``size`` and ``hash`` are what differs."""


@dataclass(frozen=True)
class FileState:
    """One pinned file, and what verification says of it."""

    file: PinnedFile
    state: State


def locate(entry: Entry) -> Path:
    """The entry's folder or file. Missing, of the wrong kind, or pickled: :class:`WeightsError`."""
    path = entry.path
    kind = _kind(entry)
    if path.suffix in PICKLED:
        raise WeightsError(
            f"{entry.id}: {path.name} is a pickled checkpoint, which can run code when opened; "
            "only safetensors are loaded (convert it first)"
        )

    if kind in _FILES_ONLY or (kind in _FILES_TOO and path.suffix == _SUFFIX):
        return _locate_file(entry, kind)
    if isinstance(entry, ModelEntry) and entry.format == "single":
        raise WeightsError(f"{entry.id}: format single is one {_SUFFIX} file, not {path}")
    if not os.path.isdir(path):
        problem = "is a file" if os.path.isfile(path) else "does not exist"
        raise WeightsError(f"{entry.id}: its folder {path} {problem} (declared in {entry.declared_in})")

    needed = path / _NEEDED[kind]
    if not is_there(needed):
        what = "diffusers" if kind == "models" else PARTS[kind]
        raise WeightsError(f"{entry.id}: {path} has no {needed.name}; expected a {what} folder")
    regular(needed)
    return path


def _locate_file(entry: Entry, kind: str) -> Path:
    path = entry.path
    if path.suffix != _SUFFIX:
        raise WeightsError(f"{entry.id}: {_FILE_NOUNS[kind]} is one {_SUFFIX} file, not {path}")
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
    return path if os.path.isdir(path) else path.parent


def verify(entry: Entry) -> list[FileState]:
    """Compare every pinned file with its size and sha256; reads all of them, whatever was known of them before."""
    folder = _folder(entry)
    hashes = Hashes((folder / pin.path for pin in entry.files), anew=True)

    states = []
    for pin in entry.files:
        state = _state(folder / pin.path, pin, hashes)
        states.append(FileState(pin, state))
    return states


def check(entry: Entry, meanwhile: Callable[[], None] = nothing) -> Path:
    """The entry's folder (a LoRA's file), once every pinned file has been found whole; else :class:`WeightsError`.

    A file that was hashed before, in this process or an earlier one, and has changed neither size nor time since
    is not hashed again.

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
        lines += _lines_of_encoder(entry, meanwhile)
    else:
        lines = _lines_of_unpinned(entry, meanwhile)

    content = "\n".join(sorted(lines))
    return hashlib.sha256(content.encode()).hexdigest()


def folder_hash(folder: Path) -> str:
    """sha256 over the names and hashes of the files of a small folder, a tokenizer's; WeightsError where none is."""
    if not os.path.isdir(folder):
        raise WeightsError(f"{folder}: no such folder; expected one with a tokenizer's files")
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".txt"))
    hashes = Hashes(paths)
    content = "\n".join(f"{path.name} {hashes.of(path)}" for path in paths)
    return hashlib.sha256(content.encode()).hexdigest()


def _lines_of_encoder(entry: Entry, meanwhile: Callable[[], None]) -> list[str]:
    """Of the image encoder that an IP adapter's entry names, which lies elsewhere and so has no pins in it."""
    if not isinstance(entry, PartEntry) or entry.image_encoder is None:
        return []
    folder = image_encoder(locate(entry), entry.image_encoder)
    paths = network_files(folder, "model")
    hashes = Hashes(paths, meanwhile)
    return [f"image_encoder/{path.relative_to(folder).as_posix()} {hashes.of(path)}" for path in paths]


def _lines_of_unpinned(entry: Entry, meanwhile: Callable[[], None]) -> list[str]:
    """Name and hash of each file that is read."""
    folder = _folder(entry)
    paths = read_files(entry)
    hashes = Hashes(paths, meanwhile)

    lines = []
    for path in paths:
        name = Path(os.path.relpath(path, folder)).as_posix()
        lines.append(f"{name} {hashes.of(path)}")
    return lines


def read_files(entry: Entry) -> list[Path]:
    """Every file of an entry that is read: of a folder those that are there, of an adapter's file its encoder's too."""
    path = locate(entry)
    if isinstance(entry, PartEntry) and entry.kind == "ip_adapters":
        return files_read(entry.kind, path, entry.image_encoder)
    return files_read(_kind(entry), path) if os.path.isdir(path) else [path]


def scheduler_config(entry: ModelEntry) -> dict[str, Any]:
    """The model's own scheduler configuration on top of its family's; small JSON, no weights are read.

    Where a folder has none the plan has the family's; a backend that opens the model's files needs it there. Of a
    checkpoint the header says what differs. The entry's ``prediction`` goes before both.
    """
    config = _of_checkpoint(entry) if entry.format == "single" else _of_folder(entry)
    return {**config, "prediction_type": entry.prediction} if entry.prediction else config


def _of_checkpoint(entry: ModelEntry) -> dict[str, Any]:
    config = dict(entry.shape.schedule)
    if not is_there(entry.path):
        return config
    found = identified(entry.path)
    if found.prediction:
        config["prediction_type"] = found.prediction
    return {**config, **_ZERO_SNR} if found.zero_terminal_snr else config


def _of_folder(entry: ModelEntry) -> dict[str, Any]:
    family = entry.shape.schedule
    path = entry.path / SCHEDULER
    if not is_there(path):
        return dict(family)

    stat = regular(path)
    config = _scheduler_json(path, stat.st_size, stat.st_mtime_ns)
    stated = {key: value for key, value in config.items() if value is not None or key not in family}
    return {**family, **stated}


def identified(path: Path) -> Identified:
    """What an entry's file or folder is, by its header or configs.

    Raises:
        WeightsError: as :func:`~intarsia.checkpoints.probe.identify`.
    """
    if os.path.isdir(path):
        return identify(path)
    stat = regular(path)
    return _identified_file(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _identified_file(path: Path, size: int, changed_ns: int) -> Identified:
    """Keyed by size and time as well, so that a changed file is looked at anew."""
    return identify(path)


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
