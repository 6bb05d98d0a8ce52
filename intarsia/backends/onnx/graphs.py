"""Exported graphs of a model or of a safety checker: where they lie, and whether they still fit its files.

A graph file holds no weights: it says at which byte of which of the model's safetensors files each of them is. So it
depends on those files' headers (names, shapes, dtypes, places) and on the configs, but not on what the weights are,
and ``graphs.json`` beside the graphs says by hash which headers and configs that were.

Graphs lie in a folder named by the hash of everything that they depend on: for the packaged models in
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

FORMAT = 2
"""Raised whenever graphs of an earlier one would not run here any more."""

MANIFEST = "graphs.json"
PACKAGED = Path(__file__).resolve().parents[2] / "assets" / "graphs"


@dataclass(frozen=True, kw_only=True)
class GraphFolder:
    """Verified graphs.

    Attributes:
        folder: what lies there.
        weights: the folder of the model.
        root: what the places of weights are relative to: ``weights``, or where its links lead.
        places: of each weight file below ``root``, where that is another folder.
        dtype: what the networks compute in; what goes in and comes out is float32 in any case.
        facts: what the export knew and running needs.
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
        if hashlib.sha256(content).hexdigest() != self.hashes[name]:
            raise WeightsError(f"{path}: damaged, its sha256 is not that of {MANIFEST}; {_again(self.weights)}")
        return relocated(content, self.places) if self.places else content


def store() -> Path:
    """Where exported graphs are cached: ``$INTARSIA_GRAPHS``, else the user's cache directory."""
    from platformdirs import user_cache_path

    asked = variable("GRAPHS")
    return Path(asked).expanduser() if asked else user_cache_path("intarsia") / "graphs"


def sources(folder: Path) -> dict[str, str]:
    """sha256 of everything that graphs depend on, by path: configs, and the headers of the weight files that are read.

    Args:
        folder: of a model, or of a safety checker.

    Raises:
        WeightsError: a file that cannot be read, is cut off, or is not in the safetensors format.
    """
    is_model = (folder / "model_index.json").is_file()
    networks = {folder / name: stem for name, stem in COMPONENTS.items() if (folder / name).is_dir()}
    found = {"model_index.json": _hash(read_bytes(folder / "model_index.json"))} if is_model else {}
    for place, stem in networks.items() if is_model else [(folder, "model")]:
        for path in network_files(place, stem):
            content = _header(path) if path.suffix == ".safetensors" else read_bytes(path)
            found[path.relative_to(folder).as_posix()] = _hash(content)
    return found


def key_of(found: Mapping[str, str], dtype: str) -> str:
    """The name of a folder of graphs in the cache."""
    text = json.dumps({"format": FORMAT, "dtype": dtype, "sources": dict(found)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def has_graphs(folder: Path, dtypes: Sequence[str]) -> bool:
    """Whether there are graphs for a model, be they good or not; WeightsError as :func:`sources`."""
    return any(place.is_file() for place in _places(sources(folder), dtypes))


def find_graphs(folder: Path, dtypes: Sequence[str]) -> GraphFolder:
    """The graphs of a model, the first of ``dtypes`` that there are.

    Raises:
        WeightsError: there are none for these files, or they are not what their folder's name says.
    """
    now = sources(folder)
    for path in _places(now, dtypes):
        if path.is_file():
            manifest = _manifest(path, folder)
            _compare(path, manifest["sources"], now, folder)
            root, moved = find_root(folder, [name for name in now if name.endswith(".safetensors")])
            return GraphFolder(
                folder=path.parent,
                weights=folder,
                dtype=manifest["dtype"],
                facts=manifest["facts"],
                hashes=manifest["graphs"],
                root=root,
                places=moved,
            )
    wanted = " or ".join(dtypes)
    raise WeightsError(
        f"{folder}: backend onnx has no {wanted} graphs that fit these files in {store()}; {_again(folder)}"
    )


def _places(now: Mapping[str, str], dtypes: Sequence[str]) -> Iterator[Path]:
    for dtype in dtypes:
        for root in (PACKAGED, store()):
            yield root / key_of(now, dtype) / MANIFEST


def _again(folder: Path) -> str:
    return f"make them with intarsia export (pip install 'intarsia[export]') for {folder.name}"


def _manifest(path: Path, folder: Path) -> dict[str, Any]:
    wanted = {"format": int, "dtype": str, "facts": dict, "sources": dict, "graphs": dict}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsError(f"{path}: not readable as JSON; {_again(folder)}") from exc
    if not isinstance(found, dict) or any(not isinstance(found.get(name), kind) for name, kind in wanted.items()):
        raise WeightsError(f"{path}: must hold {', '.join(wanted)}; {_again(folder)}")
    if found["format"] != FORMAT:
        raise WeightsError(f"{path}: format must be {FORMAT}, not {found['format']}; {_again(folder)}")
    return found


def _compare(path: Path, then: Mapping[str, str], now: Mapping[str, str], folder: Path) -> None:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            state = "is missing" if name not in now else "is new" if name not in then else "is another file"
            raise WeightsError(f"{path}: exported for other files, {folder / name} {state}; {_again(folder)}")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _header(path: Path) -> bytes:
    """Length and JSON at the beginning of a safetensors file, once its end has been found where that says."""
    regular(path)
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = file.read(8)
            return length + file.read(int.from_bytes(length, "little"))
    except (SafetensorError, OSError) as exc:
        raise WeightsError(f"{path}: not readable as safetensors: {one_line(exc)}") from exc
