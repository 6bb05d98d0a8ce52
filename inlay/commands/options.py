"""Options that several subcommands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "Weights"]

Weights = Annotated[Path | None, typer.Option("--weights", help="A weights.toml that goes before all others.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
