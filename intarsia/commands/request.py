"""``intarsia request``: a documented request, unchanged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from intarsia.commands.json_file import read_json
from intarsia.commands.options import (
    AllowPrivateUrls,
    Backend,
    Capture,
    Device,
    Endpoint,
    EngineOptions,
    Kernels,
    MaxPixels,
    Memory,
    Precision,
    Weights,
)
from intarsia.commands.streams import print_json
from intarsia.errors import IntarsiaError, SourceError
from intarsia.redact import hiding

__all__ = ["request"]


def request(
    file: Annotated[Path, typer.Argument(help="The request's JSON body; - reads standard input.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the images.")] = Path(),
    endpoint: Endpoint = None,
    backend: Backend = "auto",
    device: Device = "auto",
    kernels: Kernels = "auto",
    capture: Capture = "auto",
    precision: Precision = None,
    memory: Memory = None,
    weights: Weights = None,
    allow_private_urls: AllowPrivateUrls = False,
    max_pixels: MaxPixels = None,
) -> None:
    """Run a documented request and print the documented reply, as JSON, also where it is an error."""
    from intarsia.endpoints.answer import answer

    payload = read_json(file)
    with EngineOptions(
        backend=backend,
        device=device,
        weights=weights,
        allow_private_urls=allow_private_urls,
        max_pixels=max_pixels,
        kernels=kernels,
        capture=capture,
        precision=precision,
        memory=memory,
    ).open() as engine:
        answered = answer(engine, payload, endpoint, out)

    print_json(answered.reply)
    if answered.error is not None:
        with hiding(payload.get("key") if isinstance(payload, dict) else None):
            raise _explained(answered.error)


def _explained(error: IntarsiaError) -> IntarsiaError:
    """The error, with a hint where an image was given as a file: documented requests do not read those."""
    value = error.value if isinstance(error, SourceError) else None
    if isinstance(error, SourceError) and isinstance(value, str) and len(value) < 1024 and os.path.isfile(value):
        hint = "documented requests read no files: give a data URI or base64, or use intarsia inpaint"
        return SourceError(error.field, value, f"{value} is a file; {hint}")
    return error
