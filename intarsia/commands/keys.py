"""``intarsia keys``: the keys of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from intarsia.commands.command import group
from intarsia.commands.options import AsJson
from intarsia.commands.streams import note, print_report

__all__ = ["keys"]

keys = group("The keys of intarsia serve; the file holds their hashes alone.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is: what logs and metrics call its owner.")]
KeysFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="The keys file, as of intarsia serve --keys.")]


@keys.command("add")
def add(name: Name, file: KeysFile, as_json: AsJson = False) -> None:
    """Make a key and print it, this once; its hash is added to the file."""
    from intarsia.server.http.keys_editing import add_key

    key = add_key(file, name)
    if as_json:
        print_report({"name": name, "key": key})
    else:
        typer.echo(key)
    note(f"the key of {name} is shown this once; {file} has only its hash")


@keys.command("list")
def list_names(file: KeysFile, as_json: AsJson = False) -> None:
    """List whose keys are in a file, with the beginning of each hash."""
    from intarsia.server.http.keys import parse, read_file

    entries = parse(file, read_file(file)[0])
    if as_json:
        print_report({"keys": [{"name": entry.name, "hash": entry.hash} for entry in entries]})
        return
    for entry in entries:
        typer.echo(f"{entry.name}\t{entry.hash[:19]}…")


@keys.command("remove")
def remove(name: Name, file: KeysFile, as_json: AsJson = False) -> None:
    """Remove a key.

    A server that runs refuses it from its next request on.
    """
    from intarsia.server.http.keys import parse, read_file
    from intarsia.server.http.keys_editing import remove_key

    remove_key(file, name)
    left = parse(file, read_file(file)[0])
    if as_json:
        print_report({"name": name, "left": len(left)})
    if not left:
        note(f"{file} has no key any more: a server with it refuses every request, and does not start again")
