"""``intarsia models add``, ``scan`` and ``remove``: files of one's own in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intarsia.commands.options import AsJson, Kind, OfKind, Weights
from intarsia.commands.streams import note, print_report
from intarsia.errors import WeightsError

if TYPE_CHECKING:
    from intarsia.adding.add import Added
    from intarsia.adding.options import AddOptions
    from intarsia.adding.scan import Sight
    from intarsia.checkpoints.identified import Identified

__all__ = ["add_models", "remove_model", "scan_folder"]

# Hashing less than this is over before a line about it is read.
_LARGE = 2**30
_USES = {
    "models": "--model {}",
    "vaes": "--vae {}",
    "loras": "--lora {}:0.8",
    "ip_adapters": "--ip-adapter {}",
    "embeddings": "embedding:{} in the prompt",
}


def add_models(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files or folders, or hf:OWNER/NAME[/FILE][@REVISION].")
    ],
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Its id; default is made from the file's name.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Keep a copy of it.")] = False,
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Family of models, in place of what the file says; may be repeated."),
    ] = None,
    prediction: Annotated[
        str, typer.Option(metavar="NAME", help="epsilon or v_prediction, where the file does not say it.")
    ] = "",
    vae: Annotated[str, typer.Option(metavar="ID", help="Id of the VAE of a checkpoint, in place of its own.")] = "",
    text: Annotated[str, typer.Option(metavar="ID", help="Id of a model whose text encoders it has.")] = "",
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of a tokenizer in place of CLIP's.")
    ] = None,
    image_encoder: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="Of an IP adapter: folder of its image encoder, or id of another that has it."
        ),
    ] = "",
    default: Annotated[bool, typer.Option("--default", help="Run it where no model is named.")] = False,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Add models, LoRAs, VAEs and other files to your registry.

    Taken are checkpoints, diffusers folders, LoRAs, embeddings, VAEs and IP adapters. What each file is, is read from
    its header. Its entry is written into your weights.toml, with its sha256. The file stays where it is; nothing is
    converted.
    """
    from intarsia.adding.options import AddOptions

    if id is not None and len(paths) > 1:
        raise typer.BadParameter("one id cannot be that of several files", param_hint="--id")
    options = AddOptions(
        id=id,
        copy=copy,
        families=tuple(family or ()),
        prediction=prediction,
        vae=vae,
        text=text,
        tokenizer=tokenizer,
        image_encoder=image_encoder,
        default=default,
    )
    rows = [_row(_add_one(path, options, weights)) for path in paths]
    if as_json:
        print_report({"entries": rows})
        return
    for row in rows:
        _print(row)


def scan_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Looked through with all folders below it.")],
    add: Annotated[bool, typer.Option("--add", help="Add everything that can be used.")] = False,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """List the models and parts in a folder.

    Of each file what it is, its family, and whether it can be used. Nothing is added without --add.
    """
    from intarsia.adding.add import visible_registry
    from intarsia.adding.scan import scan
    from intarsia.adding.user_file import user_file

    registry = visible_registry(weights, user_file(weights))
    rows = []
    for sight in scan(folder.expanduser(), registry):
        rows.append(_sight_row(sight, weights, add))
        if not as_json:
            row = rows[-1]
            typer.echo("\t".join([row["state"], row["what"], row["families"] or "-", _amount(row), row["path"]]))
            if row["problem"]:
                typer.echo(f"\t{row['problem']}")
    if as_json:
        print_report({"files": rows})
    elif not add and any(row["state"] == "new" for row in rows):
        note(f"add all of them with: intarsia models scan {folder} --add")


def remove_model(
    name: Annotated[str, typer.Argument(metavar="ID", help="Id or alias.")],
    kind: OfKind = Kind.models,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Take an entry out of your weights.toml.

    Its files stay, but for a copy that `models add --copy` made.
    """
    from intarsia.adding.remove import remove

    identifier, copy = remove(kind, name, weights)
    if as_json:
        print_report({"kind": kind, "id": identifier, "removed_copy": None if copy is None else str(copy)})
        return
    typer.echo(f"removed\t{identifier}")
    if copy is not None:
        typer.echo(f"removed\t{copy}")


def _add_one(path: str, options: AddOptions, weights: Path | None) -> Added:
    from dataclasses import replace

    from intarsia.adding.add import add
    from intarsia.adding.hub import PREFIX, download

    if not path.startswith(PREFIX):
        return add(Path(path), options, weights, _say_hashing)
    downloaded = download(path)
    identifier = options.id
    if identifier is None and downloaded.path.is_dir():  # named by its commit
        identifier = path.removeprefix(PREFIX).partition("@")[0].split("/")[1]
    return add(
        downloaded.path,
        replace(options, source=downloaded.source, id=identifier),
        weights,
        _say_hashing,
    )


def _say_hashing(found: Identified) -> None:
    if found.size >= _LARGE:
        note(f"{found.path.name}: {found.what}; computing its sha256, once")


def _row(added: Added) -> dict[str, Any]:
    from intarsia.registry.entries import ModelEntry

    entry = added.entry
    families = [entry.family] if isinstance(entry, ModelEntry) else list(entry.families)
    return {
        "state": added.state,
        "id": entry.id,
        "section": added.section,
        "what": added.found.what,
        "families": families,
        "prediction": added.found.prediction,
        "dtype": added.found.dtype,
        "bytes": added.found.size,
        "path": str(entry.path),
        "registry": str(added.registry),
    }


def _print(row: dict[str, Any]) -> None:
    fits = ", ".join(row["families"]) or "every family"
    states = {"added": "added", "there": "already there", "updated": "updated"}
    typer.echo(f"{states[row['state']]}\t{row['id']}\t{row['what']}\t{fits}\t{_amount(row)}")
    use = _USES.get(row["section"], "").format(row["id"])
    if use and row["state"] == "added":
        note(f"use it with {use}")


def _sight_row(sight: Sight, weights: Path | None, add: bool) -> dict[str, Any]:
    found = sight.found
    state = "unusable" if sight.problem else "new"
    row = {
        "state": f"there as {sight.id}" if sight.id else state,
        "id": sight.id,
        "what": found.what if found else "-",
        "families": ", ".join(found.families) if found else "",
        "dtype": found.dtype if found else "",
        "bytes": found.size if found else 0,
        "path": str(sight.path),
        "problem": sight.problem,
    }
    if not add or row["state"] != "new":
        return row
    try:
        row["id"] = _add_one(str(sight.path), _no_options(), weights).entry.id
        row["state"] = f"added as {row['id']}"
    except WeightsError as exc:  # the others are added all the same
        row |= {"state": "unusable", "problem": str(exc)}
    return row


def _no_options() -> AddOptions:
    from intarsia.adding.options import AddOptions

    return AddOptions()


def _amount(row: dict[str, Any]) -> str:
    """Bytes and type, for people."""
    if not row["bytes"]:
        return "-"
    size = float(row["bytes"])
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit} {row['dtype']}".rstrip()
        size /= 1000
    return f"{size:.1f} GB {row['dtype']}".rstrip()
