"""``intarsia export``: a model's networks as ONNX graphs, for backend onnx."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intarsia.commands.options import AsJson, Weights
from intarsia.commands.progress_bar import progress_bar
from intarsia.commands.streams import note, print_report
from intarsia.errors import BackendError

if TYPE_CHECKING:
    from intarsia.backends.onnx.sources import Source
    from intarsia.export.folder import Merges
    from intarsia.registry.entries import ModelEntry
    from intarsia.registry.registry import Registry

__all__ = ["export"]


class Dtype(StrEnum):
    """What networks compute in."""

    float32 = "float32"
    float16 = "float16"


def export(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Id, alias or path; default is the default model.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option("--vae", metavar="ID", help="Another VAE's graphs as well: its id, or a path.")
    ] = None,
    ip_adapter: Annotated[
        str | None,
        typer.Option("--ip-adapter", metavar="ID", help="An IP adapter's graphs with the model: its id, or a path."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="For the folders of graphs; default is the cache."),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(metavar="NAME", help="float32, or float16, which is for GPUs.")
    ] = Dtype.float32,
    token_merging: Annotated[
        bool, typer.Option(help="A second graph of the UNet, which merges tokens, as the registry says of the model.")
    ] = True,
    again: Annotated[bool, typer.Option("--again", help="Also where the graphs are there already.")] = False,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Export a model as graphs for backend onnx.

    With it go its safety checker and the parts that its entry names. The folders of the graphs are printed.

    Graphs hold no weights, they refer to the model's own files. With --out, set INTARSIA_GRAPHS to the same folder
    where they are to be used.
    """
    from intarsia.registry.registry import Registry

    try:
        from intarsia.export.folder import MANIFEST, Merges, cached
    except ModuleNotFoundError as exc:
        raise BackendError(f"intarsia export needs the package {exc.name}: pip install 'intarsia[export]'") from exc
    registry = Registry(weights)
    entry = registry.find(model, allow_paths=True)
    merging = entry.token_merging
    merges = Merges(merging.levels, merging.reuse) if token_merging else None

    named = {"vaes": vae or entry.vae, "ip_adapters": ip_adapter or ""}
    folders: list[str] = []
    for part in _parts(registry, entry, named, str(dtype), merges):
        graphs = cached(part.source, part.dtype, out)
        if again or not (graphs / MANIFEST).is_file():
            _write(part, graphs)
        folders.append(str(graphs))
        if not as_json:
            typer.echo(folders[-1])
    if as_json:
        print_report({"folders": folders})


@dataclass(frozen=True)
class _Part:
    """Graphs to be made: of what, in which number format, and the function that writes them into a folder."""

    source: Source
    dtype: str
    write: Callable[..., None]


def _write(part: _Part, out: Path) -> None:
    """Make the graphs; a bar says which one has been made last."""
    name = part.source.path.name
    note(f"exporting {name}; this takes a minute or more")
    with progress_bar(f"exporting {name}") as move:
        counts = count(1)
        part.write(out, watch=lambda graph: move(next(counts), description=f"exporting {name}: made {graph}"))


def _parts(
    registry: Registry, entry: ModelEntry, named: Mapping[str, str], dtype: str, merges: Merges | None
) -> Iterator[_Part]:
    """A model, the parts that it has from elsewhere, and its safety checker; ``named`` are ids or paths by section."""
    from intarsia.backends.onnx.sources import ip_adapter_source, source_of, vae_source
    from intarsia.export.folder import export_checker, export_ip_adapter, export_model, export_vae
    from intarsia.registry.files import check

    models = [entry] if not entry.text else [entry, registry.find(entry.text)]
    for model in models:
        path = check(model)
        yield _Part(source_of(path), dtype, partial(export_model, path, dtype=dtype, merges=merges))
    if named["vaes"]:
        path = check(registry.part("vaes", named["vaes"], allow_paths=True))
        source = vae_source(path, entry.family)
        yield _Part(source, dtype, partial(export_vae, path, dtype=dtype, family=entry.family))
    if named["ip_adapters"]:
        adapter = registry.part("ip_adapters", named["ip_adapters"], allow_paths=True)
        path, folder, encoder = check(adapter), check(entry), adapter.image_encoder
        source = ip_adapter_source(path, source_of(folder), encoder)
        yield _Part(source, dtype, partial(export_ip_adapter, path, folder, dtype=dtype, encoder=encoder))
    if entry.safety:
        path = check(registry.part("safety", entry.safety))
        yield _Part(source_of(path), "float32", partial(export_checker, path))
