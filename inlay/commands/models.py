"""``inlay models``: the registry."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from inlay.commands.options import AsJson, Weights
from inlay.errors import WeightsError

__all__ = ["models"]

models = typer.Typer(help="The registry of models.", no_args_is_help=True)


@models.command("list")
def list_models(weights: Weights = None, as_json: AsJson = False) -> None:
    """List the models of the registry and whether their files are there."""
    from inlay.engine.registry import Registry

    registry = Registry(weights)
    rows = [
        {
            "id": entry.id,
            "family": entry.family,
            "installed": entry.path.is_dir(),
            "default": entry.id == registry.find(None).id,
            "aliases": list(entry.aliases),
            "licence": entry.licence,
        }
        for entry in registry
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        marks = ("installed" if row["installed"] else "missing") + (", default" if row["default"] else "")
        typer.echo(f"{row['id']}\t{row['family']}\t{marks}\t{row['licence']}")


@models.command("path")
def model_path(
    model: Annotated[str | None, typer.Argument(help="Id or alias; the default model without.")] = None,
    weights: Weights = None,
) -> None:
    """Print the folder of a model."""
    from inlay.engine.registry import Registry
    from inlay.engine.weights import locate

    typer.echo(str(locate(Registry(weights).find(model))))


@models.command("verify")
def verify_model(
    model: Annotated[str | None, typer.Argument(help="Id or alias; the default model without.")] = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file of a model with its size and sha256; exit code 3 where one differs."""
    from inlay.engine.registry import Registry
    from inlay.engine.weights import verify

    entry = Registry(weights).find(model)
    states = verify(entry)
    if as_json:
        rows = [{"file": found.file.path, "bytes": found.file.bytes, "state": found.state} for found in states]
        typer.echo(json.dumps({"model": entry.id, "files": rows}, indent=2))
    else:
        for found in states:
            typer.echo(f"{found.state}\t{found.file.bytes}\t{found.file.path}")
    broken = [found.file.path for found in states if found.state != "ok"]
    if broken:
        raise WeightsError(f"{entry.id}: {len(broken)} of {len(states)} files differ: {', '.join(broken)}")
    if not states:
        raise WeightsError(f"{entry.id}: the registry pins no files, so there is nothing to compare with")
