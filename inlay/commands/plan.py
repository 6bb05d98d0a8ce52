"""``inlay plan``: what a request would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlay.commands.json_file import read_json
from inlay.commands.options import AllowPrivateUrls, Endpoint, MaxPixels, Precision, Weights
from inlay.commands.streams import note, print_json
from inlay.errors import RequestError
from inlay.redact import hiding, without_key

__all__ = ["plan"]


def plan(
    file: Annotated[Path, typer.Argument(help="A request as JSON; - reads standard input.")],
    endpoint: Endpoint = None,
    weights: Weights = None,
    allow_private_urls: AllowPrivateUrls = False,
    max_pixels: MaxPixels = None,
    precision: Precision = None,
) -> None:
    """Print what a request would do, as JSON. Loads no model and no torch.

    Without --endpoint the fields are inlay's own, with it those of the documented endpoint.
    """
    from inlay.engine.access import Access
    from inlay.engine.dialects import read
    from inlay.engine.registry import Registry
    from inlay.engine.request import InpaintRequest
    from inlay.engine.resolve import resolve

    body, registry = read_json(file), Registry(weights, precision)
    if not isinstance(body, dict):
        raise RequestError("FILE", message=f"{file} must hold a JSON object, not a {type(body).__name__}")
    access = Access(allow_paths=endpoint is None, allow_private_urls=allow_private_urls, max_pixels=max_pixels)
    with hiding(body.get("key")):
        if endpoint is None:
            request, notes = InpaintRequest.parse(body), tuple[str, ...]()
        else:
            documented = read(body, endpoint, registry)
            request, notes = documented.request, documented.warnings
        resolved = resolve(request, registry, access)
        for warning in (*notes, *resolved.warnings):
            note(without_key(warning))
    print_json(resolved.plan.to_dict())
