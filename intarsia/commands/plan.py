"""``intarsia plan``: what a request would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from intarsia.commands.json_file import read_json
from intarsia.commands.options import AllowPrivateUrls, AlwaysJson, Endpoint, MaxPixels, Precision, Weights
from intarsia.commands.streams import note, print_json
from intarsia.errors import RequestError
from intarsia.redact import hiding, without_key

__all__ = ["plan"]


def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A request as JSON; - reads standard input.")],
    endpoint: Endpoint = None,
    weights: Weights = None,
    allow_private_urls: AllowPrivateUrls = False,
    max_pixels: MaxPixels = None,
    precision: Precision = None,
    as_json: AlwaysJson = True,
) -> None:
    """Print what a request would do, as JSON.

    No model and no torch are loaded.

    Without --endpoint the fields are intarsia's own, with it those of the documented endpoint.
    """
    from intarsia.endpoints import read
    from intarsia.engine.request import InpaintRequest
    from intarsia.engine.resolve import resolve
    from intarsia.images.access import Access
    from intarsia.registry.registry import Registry

    body, registry = read_json(file), Registry(weights, precision)
    if not isinstance(body, dict):
        raise RequestError("FILE", message=f"{file} must hold a JSON object, not {type(body).__name__}")
    access = Access(allow_paths=endpoint is None, allow_private_urls=allow_private_urls, max_pixels=max_pixels)
    with hiding(body.get("key")):
        if endpoint is None:
            _refuse_documented(file, body)
            request, notes = InpaintRequest.parse(body), tuple[str, ...]()
        else:
            documented = read(body, endpoint, registry)
            request, notes = documented.request, documented.warnings
        resolved = resolve(request, registry, access)
        for warning in (*notes, *resolved.warnings):
            note(without_key(warning))
    print_json(resolved.plan.to_dict())


def _refuse_documented(file: Path, body: dict[str, Any]) -> None:
    """A documented request without its endpoint would be refused one field after the other, by the names of our own."""
    from intarsia.endpoints import ENDPOINTS

    for name in ("model_id", "key"):
        if name in body:
            known = ", ".join(ENDPOINTS)
            message = f"{file} has {name} as documented requests have: name the endpoint with --endpoint ({known})"
            raise RequestError("--endpoint", message=message)
