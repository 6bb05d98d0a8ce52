"""``inlay plan``: what a request would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlay.commands.json_file import read_json
from inlay.commands.options import AllowPrivateUrls, Endpoint, MaxPixels, Weights
from inlay.errors import RequestError

__all__ = ["plan"]


def plan(
    file: Annotated[Path, typer.Argument(help="A request as JSON; - reads standard input.")],
    endpoint: Endpoint = None,
    weights: Weights = None,
    allow_private_urls: AllowPrivateUrls = False,
    max_pixels: MaxPixels = None,
) -> None:
    """Print what a request would do, as JSON. Loads no model and no torch.

    Without --endpoint the fields are inlay's own, with it those of the documented endpoint.
    """
    from inlay.engine.access import Access
    from inlay.engine.dialects import read
    from inlay.engine.registry import Registry
    from inlay.engine.request import InpaintRequest
    from inlay.engine.resolve import resolve

    body, registry = read_json(file), Registry(weights)
    if not isinstance(body, dict):
        raise RequestError("FILE", message=f"{file} must hold a JSON object, not a {type(body).__name__}")
    if endpoint is None:
        request = InpaintRequest.parse(body)
    else:
        request = read(body, endpoint, registry).request
    access = Access(allow_paths=endpoint is None, allow_private_urls=allow_private_urls, max_pixels=max_pixels)
    typer.echo(resolve(request, registry, access).plan.to_json())
