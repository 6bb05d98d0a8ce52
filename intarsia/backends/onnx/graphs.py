"""Exported graphs of a model or of a safety checker: their folder, and whether they still fit the model's files.

A graph file holds no weights, but for each one its file and offset among the model's safetensors files. So it depends
on those files' headers (names, shapes, dtypes, offsets) and on the configs, but not on the weights' values.
``graphs.json`` beside the graphs has the hashes of these headers and configs.

The folder is named by the hash of everything that graphs depend on: for the packaged models it is in
``intarsia/assets/graphs``, for others in ``$INTARSIA_GRAPHS`` or else the user's cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from intarsia.backends.onnx.relocate import find_root, relocated
from intarsia.checkpoints.files import read_bytes, regular
from intarsia.checkpoints.layout import COMPONENTS, network_files
from intarsia.errors import WeightsError, one_line
from intarsia.former_name import variable

__all__ = ["FORMAT", "MANIFEST", "PACKAGED", "GraphFolder", "find_graphs", "has_graphs", "key_of", "sources", "store"]

FORMAT = 3
"""Raised whenever graphs of an earlier one would not run here any more."""

MANIFEST = "graphs.json"
PACKAGED = Path(__file__).resolve().parents[2] / "assets" / "graphs"


@dataclass(frozen=True, kw_only=True)
class GraphFolder:
    """The verified graphs of one model.

    Attributes:
        folder: the graphs' own.
        weights: the folder of the model.
        dtype: what the networks compute in; inputs and outputs are float32 in any case.
        root: the folder that weight files are relative to: ``weights``, or the one that its links lead to.
        places: the path of each weight file below ``root``, where that is another folder.
        facts: properties of the networks that running needs.
        hashes: sha256 of each graph, by name.
    """

    folder: Path
    weights: Path
    dtype: str
    facts: Mapping[str, Any]
    hashes: Mapping[str, str]
    root: Path
    places: Mapping[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.hashes

    def read(self, name: str) -> bytes:
        """One graph; WeightsError where it is missing or not what was exported."""
        path = self.folder / f"{name}.onnx"
        if name not in self:
            raise WeightsError(f"{self.folder / MANIFEST}: does not name {path.name}; {_again(self.weights)}")
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise WeightsError(f"{path}: cannot be read ({exc.strerror}); {_again(self.weights)}") from exc
        if _hash(content) != self.hashes[name]:
            raise WeightsError(f"{path}: damaged, its sha256 is not that of {MANIFEST}; {_again(self.weights)}")
        if not self.places:
            return content
        return relocated(content, self.places)


def store() -> Path:
    """Where exported graphs are cached: ``$INTARSIA_GRAPHS``, else the user's cache directory."""
    from platformdirs import user_cache_path

    folder = variable("GRAPHS")
    if folder:
        return Path(folder).expanduser()
    return user_cache_path("intarsia") / "graphs"


def sources(folder: Path) -> dict[str, str]:
    """sha256 of everything that graphs depend on, by path: configs, and the headers of the weight files.

    Args:
        folder: of a model, or of a safety checker.

    Raises:
        WeightsError: a file that cannot be read, is cut off, or is not in the safetensors format.
    """
    index = folder / "model_index.json"
    hashes: dict[str, str] = {}
    networks = {folder: "model"}
    if index.is_file():
        hashes[index.name] = _hash(read_bytes(index))
        networks = {folder / name: stem for name, stem in COMPONENTS.items() if (folder / name).is_dir()}

    for network, stem in networks.items():
        for path in network_files(network, stem):
            content = _header(path) if path.suffix == ".safetensors" else read_bytes(path)
            hashes[path.relative_to(folder).as_posix()] = _hash(content)
    return hashes


def key_of(hashes: Mapping[str, str], dtype: str) -> str:
    """The name of a folder of graphs in the cache, of the hashes of their :func:`sources`."""
    key = {"format": FORMAT, "dtype": dtype, "sources": dict(hashes)}
    text = json.dumps(key, sort_keys=True)
    return _hash(text.encode())[:24]


def has_graphs(folder: Path, dtypes: Sequence[str]) -> bool:
    """Whether there are graphs for a model, be they good or not; WeightsError as :func:`sources`."""
    return any(manifest.is_file() for manifest in _manifests(sources(folder), dtypes))


def find_graphs(folder: Path, dtypes: Sequence[str]) -> GraphFolder:
    """The graphs of a model, in the first of ``dtypes`` that was exported.

    Raises:
        WeightsError: there are none for these files, or they are not what their folder's name says.
    """
    hashes = sources(folder)
    path = next((path for path in _manifests(hashes, dtypes) if path.is_file()), None)
    if path is None:
        allowed = " or ".join(dtypes)
        raise WeightsError(
            f"{folder}: backend onnx has no {allowed} graphs that fit these files in {store()}; {_again(folder)}"
        )

    manifest = _read_manifest(path, folder)
    _compare(path, manifest["sources"], hashes, folder)
    weight_files = [name for name in hashes if name.endswith(".safetensors")]
    root, places = find_root(folder, weight_files)

    return GraphFolder(
        folder=path.parent,
        weights=folder,
        dtype=manifest["dtype"],
        facts=manifest["facts"],
        hashes=manifest["graphs"],
        root=root,
        places=places,
    )


def _manifests(hashes: Mapping[str, str], dtypes: Sequence[str]) -> Iterator[Path]:
    """The files that are looked for, in order."""
    for dtype in dtypes:
        for root in (PACKAGED, store()):
            yield root / key_of(hashes, dtype) / MANIFEST


def _again(folder: Path) -> str:
    return f"make them with intarsia export (pip install 'intarsia[export]') for {folder.name}"


def _read_manifest(path: Path, folder: Path) -> dict[str, Any]:
    required = {"format": int, "dtype": str, "facts": dict, "sources": dict, "graphs": dict}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsError(f"{path}: not readable as JSON; {_again(folder)}") from exc

    fields = manifest if isinstance(manifest, dict) else {}
    if not all(isinstance(fields.get(name), kind) for name, kind in required.items()):
        raise WeightsError(f"{path}: must hold {', '.join(required)}; {_again(folder)}")
    if manifest["format"] != FORMAT:
        raise WeightsError(f"{path}: format must be {FORMAT}, not {manifest['format']}; {_again(folder)}")
    content: dict[str, Any] = manifest
    return content


def _compare(path: Path, exported: Mapping[str, str], hashes: Mapping[str, str], folder: Path) -> None:
    """Raise for the first file that is not the one that graphs were exported for."""
    for name in sorted({*exported, *hashes}):
        if exported.get(name) == hashes.get(name):
            continue
        state = "is another file"
        if name not in hashes:
            state = "is missing"
        elif name not in exported:
            state = "is new"
        raise WeightsError(f"{path}: exported for other files, {folder / name} {state}; {_again(folder)}")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
