"""Option groups of ``intarsia batch``: where rows come from, what they have in common, how they run and are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from intarsia.commands.request_options import MaskOptions, ModelOptions, PromptOptions, SamplingOptions
from intarsia.commands.set_option import with_settings
from intarsia.errors import RequestError

if TYPE_CHECKING:
    from intarsia.batch import Pair

__all__ = ["FileOptions", "RowFields", "RowOptions", "RunOptions", "Threads"]

Manifest = Annotated[Path | None, typer.Argument(metavar="MANIFEST", help="A .jsonl, .csv or .parquet file.")]
Images = Annotated[
    Path | None, typer.Option("--images", metavar="FOLDER", help="In place of a manifest: a folder of images …")
]
Masks = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        metavar="PATH",
        help="… its masks, or one for all; default is NAME_mask.* beside NAME.*.",
    ),
]
Defaults = Annotated[
    Path | None, typer.Option("--defaults", metavar="FILE", help="A TOML file of request fields under the rows.")
]
Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint", "-e", metavar="NAME", help="Rows are documented requests to it, community for example."),
]
Extra = Annotated[bool, typer.Option("--allow-extra", help="Ignore keys that no request has.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N rows, for a look.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="Decoding and encoding, in each process.")
]


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """Where the rows of a batch come from."""

    heading: ClassVar[str] = "Rows"

    manifest: Manifest = None
    images: Images = None
    masks: Masks = None
    defaults: Defaults = None
    allow_extra: Extra = False
    endpoint: Endpoint = None
    limit: Limit = None

    def settings(self) -> dict[str, Any]:
        """Fields of :class:`intarsia.batch.Options`."""
        defaults = None if self.defaults is None else str(self.defaults)
        return {"defaults": defaults, "allow_extra": self.allow_extra, "endpoint": self.endpoint, "limit": self.limit}

    def place(self) -> Path | Pair:
        """The manifest, or folders of images and masks."""
        from intarsia.batch.settings import Pair

        if self.manifest is not None and self.images is None and self.masks is None:
            return self.manifest
        if self.manifest is None and self.images is not None:
            return Pair(self.images, self.images if self.masks is None else self.masks)
        raise RequestError("manifest", message="give either a manifest, or --images and --masks")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which rows run, and how many at a time."""

    heading: ClassVar[str] = "Run"

    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Of the run; rows without a seed get theirs from it.")
    ] = 0
    shard: Annotated[str, typer.Option("--shard", metavar="I/N", help="The I-th of N parts of the rows.")] = "1/1"
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Processes; default one for each GPU.")
    ] = None
    threads: Threads = None
    slots: Annotated[int | None, typer.Option("--slots", min=1, metavar="N", help="Images evaluated together.")] = None
    deterministic: Annotated[
        bool, typer.Option("--deterministic/--fast", help="Bits that do not depend on what else is in the batch.")
    ] = True
    max_errors: Annotated[
        str | None, typer.Option("--max-errors", metavar="N", help="Stop after more failures than N or P%.")
    ] = None
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False
    runner: Annotated[str, typer.Option("--runner", metavar="NAME", help="local or ray.")] = "local"

    def fields(self) -> dict[str, Any]:
        """Fields of :class:`intarsia.batch.Options`."""
        from intarsia.batch.settings import read_shard

        return asdict(self) | {"shard": read_shard(self.shard)}


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How the images of a batch are written."""

    heading: ClassVar[str] = "Output"

    format: Annotated[
        str, typer.Option("--format", metavar="NAME", help="png, jpg or webp, for outputs without an extension.")
    ] = "png"
    compression: Annotated[int, typer.Option("--compression", min=0, max=9, metavar="N", help="Of PNG.")] = 3
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, metavar="N", help="Of JPEG and WebP.")] = 95
    metadata: Annotated[
        bool, typer.Option("--metadata/--no-metadata", help="Write parameters into the files.", show_default=False)
    ] = True
    strip: Annotated[bool, typer.Option("--strip", help="Leave out EXIF, XMP and DPI of the images.")] = False
    thumbnails: Annotated[
        bool | None,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            help="Make the contact sheet's with the rows: batch sheet is quick then.  [default: from 1,000 rows on]",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RowFields:
    """The options of a request, put together: fields of all rows that have none of their own."""

    masks: MaskOptions
    prompt: PromptOptions
    sampling: SamplingOptions
    model: ModelOptions
    settings: list[str] | None

    def fields(self) -> dict[str, Any]:
        """The fields; RequestError for one that is given twice."""
        fields: dict[str, Any] = {}
        for group in (self.masks, self.prompt, self.sampling, self.model):
            fields |= group.fields()
        return _from_here(with_settings(fields, self.settings))


def _from_here(fields: dict[str, Any]) -> dict[str, Any]:
    """Paths on the command line are relative to the working folder; those in rows, to the manifest."""
    for name in ("init_image", "mask_image"):
        if name in fields:
            fields[name] = _absolute(fields[name])

    adapter = fields.get("ip_adapter")
    if isinstance(adapter, Mapping) and "image" in adapter:
        fields["ip_adapter"] = {**adapter, "image": _absolute(adapter["image"])}
    return fields


def _absolute(source: Any) -> Any:
    """An image's path, made absolute where there is such a file; anything else as it is."""
    if isinstance(source, str) and os.path.isfile(source):  # also for what is too long to be a path
        return os.path.abspath(source)
    return source
