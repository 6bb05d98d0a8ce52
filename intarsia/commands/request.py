"""``intarsia request``: a documented request, unchanged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intarsia.commands.json_file import read_json
from intarsia.commands.option_groups import grouped
from intarsia.commands.options import AlwaysJson, Endpoint, EngineOptions, MessageOptions
from intarsia.commands.progress_bar import result_of
from intarsia.commands.streams import print_json
from intarsia.errors import IntarsiaError, RequestError, SourceError
from intarsia.redact import hiding

if TYPE_CHECKING:
    from intarsia.engine.engine import Engine
    from intarsia.engine.request import InpaintRequest
    from intarsia.engine.result import Result
    from intarsia.registry.registry import Registry

__all__ = ["request"]


@grouped
def request(
    engine: EngineOptions,
    messages: MessageOptions,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The request's JSON body; - reads standard input.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", "--output", metavar="FOLDER", help="For the images; it is made.")
    ] = Path(),
    endpoint: Endpoint = None,
    as_json: AlwaysJson = True,
) -> None:
    """Run a documented request and print the documented reply.

    The reply is JSON, also where it is an error.
    """
    from intarsia.endpoints.answer import answer
    from intarsia.endpoints.replies import error_reply

    messages.apply()
    try:
        payload = read_json(file)
    except RequestError as exc:
        print_json(error_reply(str(exc)))
        raise
    with engine.open() as opened:
        answered = answer(_Watched(opened), payload, endpoint, out)

    print_json(answered.reply)
    if answered.error is not None:
        with hiding(payload.get("key") if isinstance(payload, dict) else None):
            raise _explained(answered.error)


class _Watched:
    """An engine whose requests move a progress bar."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def registry(self) -> Registry:
        """The engine's."""
        return self._engine.registry

    def run(self, request: InpaintRequest, *, allow_paths: bool = True) -> Result:
        """As the engine's."""
        return result_of(self._engine.stream(request, allow_paths=allow_paths))


def _explained(error: IntarsiaError) -> IntarsiaError:
    """The error, with a hint where an image was given as a file: documented requests do not read those."""
    value = error.value if isinstance(error, SourceError) else None
    if isinstance(error, SourceError) and isinstance(value, str) and len(value) < 1024 and os.path.isfile(value):
        hint = "documented requests read no files: give a data URI or base64, or use intarsia inpaint"
        return SourceError(error.field, value, f"{value} is a file; {hint}")
    return error
