"""Options that several subcommands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AllowPrivateUrls", "AsJson", "Backend", "Device", "Endpoint", "Weights"]

Weights = Annotated[Path | None, typer.Option("--weights", help="A weights.toml that goes before all others.")]
AllowPrivateUrls = Annotated[
    bool, typer.Option("--allow-private-urls", help="Fetch pictures from private and local hosts too.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint", "-e", help="community, enterprise-pony, pony or realtime.")]
Backend = Annotated[str, typer.Option("--backend", help="auto, torch or null.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
