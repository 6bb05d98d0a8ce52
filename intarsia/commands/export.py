"""``intarsia export``: a model's networks as ONNX graphs, for backend onnx."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from intarsia.commands.options import Weights
from intarsia.commands.streams import note
from intarsia.errors import BackendError, WeightsError

__all__ = ["export"]


class Dtype(StrEnum):
    """What networks compute in."""

    float32 = "float32"
    float16 = "float16"


def export(
    model: Annotated[str | None, typer.Argument(help="Id or alias in the registry; the default model without.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where folders of graphs are kept; the cache without.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="float16 is for GPUs.")] = Dtype.float32,
    token_merging: Annotated[
        bool, typer.Option(help="A second graph of the UNet, which merges tokens, as the registry says of the model.")
    ] = True,
    again: Annotated[bool, typer.Option("--again", help="Also where the graphs are there already.")] = False,
    weights: Weights = None,
) -> None:
    """Export a model, and its safety checker, for backend onnx; prints the folders of their graphs.

    The graphs hold no weights, they refer to the model's own files. With --out, set INTARSIA_GRAPHS to the same folder
    where they are to be used.
    """
    from intarsia.registry.files import check
    from intarsia.registry.registry import Registry

    try:
        from intarsia.export.folder import MANIFEST, Merges, cached, export_checker, export_model
    except ModuleNotFoundError as exc:
        raise BackendError(f"intarsia export needs the package {exc.name}: pip install 'intarsia[export]'") from exc
    registry = Registry(weights)
    entry = registry.find(model)
    if entry.format == "single":
        raise WeightsError(f"{entry.id}: graphs are made of a diffusers folder, and {entry.path.name} is one file")
    merging = entry.token_merging
    merges = Merges(merging.levels, merging.reuse) if token_merging else None

    folders = [(check(entry), str(dtype))]
    if entry.safety:
        folders.append((check(registry.part("safety", entry.safety)), "float32"))

    for folder, precision in folders:
        graphs = cached(folder, precision, out)
        if again or not (graphs / MANIFEST).is_file():
            note(f"exporting {folder.name}; this takes a minute or more")
            if (folder / "model_index.json").is_file():
                export_model(folder, graphs, precision, merges)
            else:
                export_checker(folder, graphs)
        typer.echo(str(graphs))
