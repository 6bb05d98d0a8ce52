"""Options that several subcommands have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intarsia.numbers import number_or_text, whole_or_text

if TYPE_CHECKING:
    from intarsia.engine.engine import Engine

__all__ = [
    "NUMBER",
    "WHOLE",
    "AllowPrivateUrls",
    "AsJson",
    "Backend",
    "Capture",
    "Device",
    "Endpoint",
    "EngineOptions",
    "Kernels",
    "MaxPixels",
    "Memory",
    "Precision",
    "Weights",
]

Weights = Annotated[Path | None, typer.Option("--weights", help="A weights.toml that goes before all others.")]
AllowPrivateUrls = Annotated[
    bool, typer.Option("--allow-private-urls", help="Fetch images from private and local hosts too.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, help="Largest image, width times height; 67108864 by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint", "-e", help="community, enterprise-pony, pony or realtime.")]
Backend = Annotated[str, typer.Option("--backend", help="auto, onnx, torch or null.")]
Kernels = Annotated[str, typer.Option("--kernels", help="auto, fused or plain; auto is fused on a GPU.")]
Capture = Annotated[str, typer.Option("--capture", help="auto, on or off: CUDA graphs; auto is on for a GPU.")]
Precision = Annotated[
    str | None, typer.Option("--precision", help="standard, or fp8: faster, lossier, on a GPU that has it.")
]
Memory = Annotated[
    str | None, typer.Option("--memory", help="Of the device, for each model: 8GiB, for example; all by default.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda[:N], or tensorrt[:N] with onnx.")]

# Numbers of a request: what is none is refused by the request, in the same words as everywhere.
WHOLE: dict[str, Any] = {"parser": whole_or_text, "metavar": "INTEGER"}
NUMBER: dict[str, Any] = {"parser": number_or_text, "metavar": "NUMBER"}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """A command's options that are an engine's."""

    backend: str
    device: str
    weights: Path | None
    allow_private_urls: bool
    max_pixels: int | None
    kernels: str
    capture: str
    precision: str | None
    memory: str | None = None

    def open(self) -> Engine:
        """The engine that they describe; its errors are those of :class:`intarsia.Engine`."""
        from intarsia.engine.engine import Engine

        return Engine(
            self.backend,
            self.device,
            self.weights,
            allow_private_urls=self.allow_private_urls,
            max_pixels=self.max_pixels,
            kernels=self.kernels,
            capture=self.capture,
            precision=self.precision,
            memory=self.memory,
        )
