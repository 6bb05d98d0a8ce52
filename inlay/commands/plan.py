"""``inlay plan``: what a request would do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from inlay.commands.options import Weights
from inlay.errors import RequestError

__all__ = ["plan"]


def plan(
    file: Annotated[Path, typer.Argument(help="A request as JSON; - reads standard input.")],
    weights: Weights = None,
) -> None:
    """Print what a request would do, as JSON. Loads no model and no torch."""
    from inlay.api import plan as make_plan
    from inlay.engine.request import InpaintRequest

    typer.echo(make_plan(InpaintRequest.parse(_read_json(file)), weights).to_json())


def _read_json(file: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, UnicodeDecodeError) as exc:
        raise RequestError("FILE", message=f"{file} cannot be read: {exc}") from exc
    except (json.JSONDecodeError, RecursionError) as exc:
        raise RequestError("FILE", message=f"{file} is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise RequestError("FILE", message=f"{file} must hold a JSON object, not a {type(found).__name__}")
    return found
