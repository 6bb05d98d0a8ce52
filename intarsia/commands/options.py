"""Options that several subcommands have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from intarsia.commands.streams import say_more_or_less
from intarsia.numbers import number_or_text, whole_or_text

if TYPE_CHECKING:
    from intarsia.engine.engine import Engine

__all__ = [
    "NUMBER",
    "WHOLE",
    "AllowPrivateUrls",
    "AlwaysJson",
    "AsJson",
    "Backend",
    "Capture",
    "Device",
    "Endpoint",
    "EngineOptions",
    "Kernels",
    "Kind",
    "MaxPixels",
    "Memory",
    "MessageOptions",
    "OfKind",
    "Precision",
    "Quiet",
    "Verbose",
    "Weights",
]


class Kind(StrEnum):
    """A section of the registry."""

    models = "models"
    vaes = "vaes"
    loras = "loras"
    embeddings = "embeddings"
    ip_adapters = "ip_adapters"
    safety = "safety"


_KINDS = ", ".join(kind.replace("_", "-") for kind in Kind)

OfKind = Annotated[
    Kind, typer.Option("--kind", metavar="SECTION", help=f"Section of the registry that it is in: {_KINDS}.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="A weights.toml that goes before all others.")
]
AllowPrivateUrls = Annotated[
    bool, typer.Option("--allow-private-urls", help="Fetch images from private and local hosts too.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, metavar="N", help="Largest image, width times height; default 67108864."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
AlwaysJson = Annotated[bool, typer.Option("--json", help="It is JSON in any case.", hidden=True)]
Endpoint = Annotated[
    str | None, typer.Option("--endpoint", "-e", metavar="NAME", help="community, enterprise-pony, pony or realtime.")
]
Backend = Annotated[str, typer.Option("--backend", metavar="NAME", help="auto, onnx, torch or null.")]
Kernels = Annotated[
    str, typer.Option("--kernels", metavar="NAME", help="auto, fused or plain; auto is fused on a GPU.")
]
Capture = Annotated[
    str, typer.Option("--capture", metavar="NAME", help="auto, on or off: CUDA graphs; auto is on for a GPU.")
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", metavar="NAME", help="standard, or fp8: faster, lossier, on a GPU that has it."),
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda[:N], or tensorrt[:N] with onnx.")
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="Of the device, for each model: 8GiB, for example; default: all."),
]

# Before the command they hold for all of it; behind it they are where most look for them.
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors: no warnings, no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="What ran, and the log, on standard error.")]

# Numbers of a table: what is none is refused by the library, in the same words as everywhere.
WHOLE: dict[str, Any] = {"parser": whole_or_text, "metavar": "N"}
NUMBER: dict[str, Any] = {"parser": number_or_text, "metavar": "X"}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of an engine: what runs a request, and where models and images may come from."""

    heading: ClassVar[str] = "Engine"

    backend: Backend = "auto"
    device: Device = "auto"
    kernels: Kernels = "auto"
    capture: Capture = "auto"
    precision: Precision = None
    memory: Memory = None
    weights: Weights = None
    allow_private_urls: AllowPrivateUrls = False
    max_pixels: MaxPixels = None

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


@dataclass(frozen=True, kw_only=True)
class MessageOptions:
    """How much is said on standard error."""

    heading: ClassVar[str] = "Options"

    quiet: Quiet = False
    verbose: Verbose = False

    def apply(self) -> None:
        """From now on, beside what the command line's own ``-q`` and ``-v`` say."""
        say_more_or_less(quiet=self.quiet, verbose=self.verbose)
