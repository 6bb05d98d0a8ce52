"""``intarsia models``: the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from intarsia.commands.command import group
from intarsia.commands.models_add import add_models, remove_model, scan_folder
from intarsia.commands.options import AsJson, Kind, OfKind, Weights
from intarsia.commands.streams import note, print_report
from intarsia.errors import RequestError, WeightsError

if TYPE_CHECKING:
    from intarsia.registry.entries import ModelEntry, PartEntry
    from intarsia.registry.registry import Registry

__all__ = ["models"]

models = group("The registry of models, and of what is used with them.", no_args_is_help=True)
models.command("add")(add_models)
models.command("scan")(scan_folder)
models.command("remove")(remove_model)


Name = Annotated[str | None, typer.Argument(metavar="ID", help="Id or alias; default is the default model.")]


@models.command("list")
def list_models(kind: OfKind = Kind.models, weights: Weights = None, as_json: AsJson = False) -> None:
    """List the entries of the registry.

    Whether each can be opened stands beside it; why not is said on standard error.
    """
    from intarsia.registry.listing import entry_row, why_missing
    from intarsia.registry.registry import Registry

    registry = Registry(weights)
    entries: list[ModelEntry | PartEntry] = []
    entries += registry if kind is Kind.models else registry.parts[kind].values()
    rows = [entry_row(registry, entry) for entry in entries]
    if as_json:
        print_report({"kind": kind, "entries": rows})
        return

    for row in rows:
        marks = "installed" if row["installed"] else "missing"
        if row.get("default"):
            marks += ", default"
        fits = row.get("family") or ", ".join(row["families"]) or "every family"
        typer.echo(f"{row['id']}\t{fits}\t{marks}\t{row['licence']}")
    for entry in entries:
        problem = why_missing(entry)
        if problem:
            note(problem)


@models.command("path")
def model_path(name: Name = None, kind: OfKind = Kind.models, weights: Weights = None, as_json: AsJson = False) -> None:
    """Print the folder, or the file, of an entry."""
    from intarsia.registry.files import locate
    from intarsia.registry.registry import Registry

    entry = _find(Registry(weights), kind, name)
    path = str(locate(entry))
    if as_json:
        print_report({"kind": kind, "id": entry.id, "path": path})
    else:
        typer.echo(path)


@models.command("verify")
def verify_model(
    name: Name = None, kind: OfKind = Kind.models, weights: Weights = None, as_json: AsJson = False
) -> None:
    """Compare every file of an entry with its size and sha256.

    Exit code 3 where one differs.
    """
    from intarsia.registry.files import verify
    from intarsia.registry.registry import Registry

    entry = _find(Registry(weights), kind, name)
    states = verify(entry)
    if as_json:
        rows = [{"file": item.file.path, "bytes": item.file.bytes, "state": item.state} for item in states]
        print_report({"kind": kind, "id": entry.id, "files": rows})
    else:
        for item in states:
            typer.echo(f"{item.state}\t{item.file.bytes}\t{item.file.path}")

    broken = [item.file.path for item in states if item.state != "ok"]
    if broken:
        raise WeightsError(f"{entry.id}: {len(broken)} of {len(states)} files differ: {', '.join(broken)}")
    if not states:
        raise WeightsError(f"{entry.id}: the registry pins no files, so there is nothing to compare with")


def _find(registry: Registry, kind: Kind, name: str | None) -> ModelEntry | PartEntry:
    if kind is Kind.models:
        return registry.find(name)
    if name is None:
        known = ", ".join(sorted(registry.parts[kind])) or "none"
        message = f"ID is missing, as only models have a default; {kind} of the registry: {known}"
        raise RequestError("ID", message=message)
    return registry.part(kind, name)
