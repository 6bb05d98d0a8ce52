"""Exported graphs of a model or of a safety checker: their folder, and whether they still fit the model's files.

A graph file holds no weights, but for each one its file and offset among the model's safetensors files. So it depends
on what :mod:`.sources` says; ``graphs.json`` beside the graphs has the hashes of that.

The folder is named by the hash of everything that graphs depend on: for the packaged models it is in
``intarsia/assets/graphs``, for others in ``$INTARSIA_GRAPHS`` or else the user's cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intarsia.backends.onnx.relocate import relocated
from intarsia.backends.onnx.sources import Source, hash_of, source_of
from intarsia.errors import WeightsError
from intarsia.former_name import variable

__all__ = ["FORMAT", "MANIFEST", "PACKAGED", "GraphFolder", "find_graphs", "has_graphs", "key_of", "store"]

FORMAT = 3
"""Raised whenever graphs of an earlier one would not run here any more."""

MANIFEST = "graphs.json"
PACKAGED = Path(__file__).resolve().parents[2] / "assets" / "graphs"


@dataclass(frozen=True, kw_only=True)
class GraphFolder:
    """The verified graphs of one model.

    Attributes:
        folder: the graphs' own.
        source: what they were made of.
        dtype: what the networks compute in; inputs and outputs are float32 in any case.
        root: the folder that weight files are relative to: the model's, or the one that its links lead to.
        places: the path of each weight file below ``root``, where it is another than in the graphs.
        facts: properties of the networks that running needs.
        hashes: sha256 of each graph, by name.
    """

    folder: Path
    source: Source
    dtype: str
    facts: Mapping[str, Any]
    hashes: Mapping[str, str]
    root: Path
    places: Mapping[str, str]

    @property
    def weights(self) -> Path:
        """The model's folder, or its file."""
        return self.source.path

    def __contains__(self, name: str) -> bool:
        return name in self.hashes

    def read(self, name: str) -> bytes:
        """One graph; WeightsError where it is missing or not what was exported."""
        path = self.folder / f"{name}.onnx"
        if name not in self:
            raise WeightsError(f"{self.folder / MANIFEST}: does not name {path.name}; {_again(self.source)}")
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise WeightsError(f"{path}: cannot be read ({exc.strerror}); {_again(self.source)}") from exc
        if hash_of(content) != self.hashes[name]:
            raise WeightsError(f"{path}: damaged, its sha256 is not that of {MANIFEST}; {_again(self.source)}")
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


def key_of(source: Source, dtype: str) -> str:
    """The name of a folder of graphs in the cache."""
    key = {"format": FORMAT, "dtype": dtype, "sources": dict(source.hashes)}
    text = json.dumps(key, sort_keys=True)
    return hash_of(text.encode())[:24]


def has_graphs(source: Path | Source, dtypes: Sequence[str]) -> bool:
    """Whether there are graphs of a model, be they good or not; WeightsError as :func:`.sources.source_of`."""
    return any(manifest.is_file() for manifest in _manifests(_source(source), dtypes))


def find_graphs(source: Path | Source, dtypes: Sequence[str]) -> GraphFolder:
    """The graphs of a model, in the first of ``dtypes`` that was exported.

    Args:
        source: what they are made of; a path is a model's or a safety checker's.

    Raises:
        WeightsError: there are none for these files, or they are not what their folder's name says.
    """
    source = _source(source)
    path = next((path for path in _manifests(source, dtypes) if path.is_file()), None)
    if path is None:
        allowed = " or ".join(dtypes)
        raise WeightsError(
            f"{source.path}: backend onnx has no {allowed} graphs that fit these files in {store()}; {_again(source)}"
        )

    manifest = _read_manifest(path, source)
    _compare(path, manifest["sources"], source)
    root, places = source.root()
    return GraphFolder(
        folder=path.parent,
        source=source,
        dtype=manifest["dtype"],
        facts=manifest["facts"],
        hashes=manifest["graphs"],
        root=root,
        places=places,
    )


def _source(source: Path | Source) -> Source:
    return source_of(source) if isinstance(source, Path) else source


def _manifests(source: Source, dtypes: Sequence[str]) -> Iterator[Path]:
    """The files that are looked for, in order."""
    for dtype in dtypes:
        for root in (PACKAGED, store()):
            yield root / key_of(source, dtype) / MANIFEST


def _again(source: Source) -> str:
    return f"make them with {source.command} (pip install 'intarsia[export]') for {source.path.name}"


def _read_manifest(path: Path, source: Source) -> dict[str, Any]:
    required = {"format": int, "dtype": str, "facts": dict, "sources": dict, "graphs": dict}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsError(f"{path}: not readable as JSON; {_again(source)}") from exc

    fields = manifest if isinstance(manifest, dict) else {}
    if not all(isinstance(fields.get(name), kind) for name, kind in required.items()):
        raise WeightsError(f"{path}: must hold {', '.join(required)}; {_again(source)}")
    if manifest["format"] != FORMAT:
        raise WeightsError(f"{path}: format must be {FORMAT}, not {manifest['format']}; {_again(source)}")
    content: dict[str, Any] = manifest
    return content


def _compare(path: Path, exported: Mapping[str, str], source: Source) -> None:
    """Raise for the first file that is not the one that graphs were exported for."""
    for name in sorted({*exported, *source.hashes}):
        if exported.get(name) == source.hashes.get(name):
            continue
        state = "is another file"
        if name not in source.hashes:
            state = "is missing"
        elif name not in exported:
            state = "is new"
        raise WeightsError(f"{path}: exported for other files, {source.path / name} {state}; {_again(source)}")
