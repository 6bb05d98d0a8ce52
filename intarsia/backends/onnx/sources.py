"""What graphs are made of, and hashes of it: a model's folder or file, an autoencoder's, an IP adapter's, a checker's.

Graphs depend on configs and on the headers of weight files (names, shapes, types, offsets), never on weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from intarsia.backends.onnx.relocate import find_root
from intarsia.checkpoints.files import read_bytes, regular
from intarsia.checkpoints.ip_adapter_layout import WEIGHTS, image_encoder, weights_file
from intarsia.checkpoints.layout import COMPONENTS, network_files
from intarsia.checkpoints.single_file import stored_file, stored_vae
from intarsia.checkpoints.stored import StoredNetwork
from intarsia.errors import WeightsError, one_line

__all__ = ["LOCATION", "Source", "hash_of", "ip_adapter_source", "source_of", "vae_source"]

LOCATION = "weights.safetensors"
"""What graphs of a single file call it: it may be renamed, or moved to another folder, and keeps its graphs."""

_WEIGHTS = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files that graphs are made of.

    Attributes:
        path: a folder, or one file.
        hashes: sha256 of everything that graphs depend on, by path below the folder.
        command: that makes the graphs, for errors.
        files: weight files by what graphs call them; empty where that is their path below the folder.
    """

    path: Path
    hashes: Mapping[str, str]
    command: str
    files: Mapping[str, Path] = field(default_factory=dict)

    def root(self) -> tuple[Path, dict[str, str]]:
        """The folder that holds the weights once links are resolved, and paths in it that differ from the graphs'."""
        if not self.files:
            return find_root(self.path, [name for name in self.hashes if name.endswith(_WEIGHTS)])
        targets = {name: Path(os.path.realpath(path)) for name, path in self.files.items()}
        root = Path(os.path.commonpath([target.parent for target in targets.values()]))
        return root, {name: target.relative_to(root).as_posix() for name, target in targets.items()}

    def location(self, file: Path) -> str:
        """What graphs call a weight file."""
        if not self.files:
            return file.relative_to(self.path).as_posix()
        return next(name for name, path in self.files.items() if path == file)


def source_of(path: Path) -> Source:
    """Of a model, or of a safety checker's folder.

    Raises:
        WeightsError: a file that cannot be read, is cut off, or is not in the safetensors format.
    """
    command = "intarsia export"
    if path.is_file():
        hashes = _of_file(path, stored_file(path).networks)
        return Source(path=path, hashes=hashes, command=command, files={LOCATION: path})

    index = path / "model_index.json"
    own: dict[str, str] = {}
    networks = {path: "model"}
    if index.is_file():
        own[index.name] = hash_of(read_bytes(index))
        networks = {path / name: stem for name, stem in COMPONENTS.items() if (path / name).is_dir()}
    return Source(path=path, hashes=own | _of_folders(path, networks), command=command)


def vae_source(path: Path, family: str) -> Source:
    """Of an autoencoder, for a model of that family; WeightsError as above."""
    command = "intarsia export --vae"
    if path.is_file():
        hashes = _of_file(path, {"vae": stored_vae(path, family)})
        return Source(path=path, hashes=hashes, command=command, files={LOCATION: path})
    return Source(path=path, hashes=_of_folders(path, {path: COMPONENTS["vae"]}), command=command)


def ip_adapter_source(path: Path, model: Source, declared: Path | None = None) -> Source:
    """Of an IP adapter, folder or file, with its image encoder, for one model; WeightsError as above.

    Args:
        declared: what the adapter's entry names in place of its own image encoder.
    """
    weights, encoder = weights_file(path), image_encoder(path, declared)
    files = {WEIGHTS: weights}
    hashes = {f"model/{name}": value for name, value in model.hashes.items()}
    hashes[WEIGHTS] = hash_of(_header(weights))
    for name, value in _of_folders(encoder, {encoder: "model"}).items():
        place = f"image_encoder/{name}"
        hashes[place] = value
        if name.endswith(_WEIGHTS):
            files[place] = encoder / name
    return Source(path=path, hashes=hashes, command="intarsia export --ip-adapter", files=files)


def _of_folders(root: Path, networks: Mapping[Path, str]) -> dict[str, str]:
    hashes = {}
    for network, stem in networks.items():
        for path in network_files(network, stem):
            content = _header(path) if path.suffix == _WEIGHTS else read_bytes(path)
            hashes[path.relative_to(root).as_posix()] = hash_of(content)
    return hashes


def _of_file(path: Path, networks: Mapping[str, StoredNetwork]) -> dict[str, str]:
    """Its header, and the configs that are read off it."""
    hashes = {LOCATION: hash_of(_header(path))}
    for name, network in networks.items():
        config = json.dumps(dict(network.config), sort_keys=True)
        hashes[f"{name}/config.json"] = hash_of(config.encode())
    return hashes


def _header(path: Path) -> bytes:
    """Length and JSON at the beginning of a safetensors file, whose size has been checked against them."""
    regular(path)
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = file.read(8)
            return length + file.read(int.from_bytes(length, "little"))
    except (SafetensorError, OSError) as exc:
        raise WeightsError(f"{path}: not readable as safetensors: {one_line(exc)}") from exc


def hash_of(content: bytes) -> str:
    """sha256, as text."""
    return hashlib.sha256(content).hexdigest()
