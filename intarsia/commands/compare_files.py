"""The files that ``intarsia compare`` writes: the grid, and beside it the table and the manifest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from intarsia.commands.option_groups import Also
from intarsia.errors import OutputError

if TYPE_CHECKING:
    from intarsia.comparing.comparison import Comparison

__all__ = ["Files", "GridOptions"]

_MOST_TRIES = 10_000


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Files that are written."""

    heading: ClassVar[str] = "Output"

    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="PATH", help="The grid, or a folder; .csv and .jsonl go beside it."),
        Also("--output"),
    ] = "."
    cell_size: Annotated[
        int, typer.Option("--cell-size", metavar="PIXELS", help="Longer side of a cell, 64 to 1024.", show_default=True)
    ] = 256
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep each image at full size, as cell-01.png and so on.")
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False

    def files(self, image: object) -> Files:
        """Where they go, checked before the work; names that are made up count past what is there.

        Raises:
            OutputError: one that is there already, or cannot be written.
        """
        out = Path(self.out)
        is_folder = self.out.endswith(("/", os.sep)) or not out.suffix or out.is_dir()
        if not is_folder:
            files = Files(out)
            files.check(self.overwrite)
            return files

        is_file = isinstance(image, str) and len(image) < 1024 and os.path.isfile(image)
        stem = f"{Path(str(image)).stem if is_file else 'intarsia'}-compare"
        files = Files(out / f"{stem}.png")
        for number in range(2, _MOST_TRIES):
            if self.overwrite or not files.are_taken:
                break
            files = Files(out / f"{stem}-{number}.png")
        files.check(self.overwrite)
        return files


@dataclass(frozen=True)
class Files:
    """The grid, and beside it the table and the manifest."""

    grid: Path

    @property
    def table(self) -> Path:
        return self.grid.with_suffix(".csv")

    @property
    def manifest(self) -> Path:
        return self.grid.with_suffix(".jsonl")

    @property
    def paths(self) -> list[Path]:
        return [self.grid, self.table, self.manifest]

    @property
    def are_taken(self) -> bool:
        return any(map(os.path.lexists, self.paths))

    def check(self, overwrite: bool) -> None:
        """Refuse what cannot be written; errors are those of :func:`intarsia.images.save.save`."""
        from intarsia.images.save import check_outputs

        check_outputs([self.grid], overwrite=overwrite)
        for path in (self.table, self.manifest):
            if path.is_dir():
                raise OutputError(f"{path} cannot be written: it is a folder")
            if not overwrite and os.path.lexists(path):
                raise OutputError(f"{path} is already there; choose another name, or overwrite it (--overwrite)")

    def write(self, comparison: Comparison, overwrite: bool) -> None:
        """Put all three in place, or none of them."""
        from intarsia.images.atomic_files import naming, place
        from intarsia.images.encode import SaveOptions, encode
        from intarsia.images.output_names import format_of

        data, _ = encode(comparison.grid(), format_of(self.grid), options=SaveOptions(overwrite=overwrite))
        contents = [data, comparison.csv().encode(), comparison.manifest().encode()]
        with naming(self.grid.parent):
            self.grid.parent.mkdir(parents=True, exist_ok=True)
        place(list(zip(self.paths, contents, strict=True)), overwrite=overwrite)
