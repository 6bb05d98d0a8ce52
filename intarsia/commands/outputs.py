"""Where images go: options, and names that count up rather than replace what is there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from intarsia.commands.option_groups import Also
from intarsia.errors import OutputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["OutputOptions", "Suffix", "Targets"]

_TRIES = 20
"""How often names are looked for anew where other processes take them."""


class Suffix(StrEnum):
    """Output formats."""

    png = "png"
    jpg = "jpg"
    webp = "webp"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Files that are written."""

    heading: ClassVar[str] = "Output"

    out: Annotated[
        str, typer.Option("--out", "-o", metavar="PATH", help="A file, or a folder, which is made."), Also("--output")
    ] = "."
    format: Annotated[Suffix | None, typer.Option(help="In a folder; default png.")] = None
    metadata: Annotated[
        bool, typer.Option("--metadata/--no-metadata", help="Write parameters into the file.", show_default=False)
    ] = True
    strip: Annotated[bool, typer.Option("--strip", help="Leave out the image's EXIF, XMP and DPI.")] = False
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, metavar="N", help="Of JPEG, default 95; makes WebP smaller and lossy.")
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False

    def targets(self, image: object, samples: int) -> Targets:
        """Where the images of a request go.

        Raises:
            OutputError: an extension of no known format, or another than ``--format`` says; a quality of PNG.
        """
        out = Path(self.out)
        is_folder = self.out.endswith(("/", os.sep)) or not out.suffix or out.is_dir()
        if is_folder:
            suffix = f".{self.format or Suffix.png}"
            self._check_quality(suffix)
            # The input's own name would collide with the input where both share a folder.
            stem = f"{_stem(image)}-intarsia"
            return Targets(out, stem, suffix, samples, overwrite=self.overwrite, may_count=not self.overwrite)

        if self.format is not None and out.suffix.lower() not in _EXTENSIONS[self.format]:
            raise OutputError(f"--format {self.format} contradicts the name {self.out}: leave one of them out")
        self._check_quality(out.suffix)
        return Targets(out.parent, out.stem, out.suffix, samples, overwrite=self.overwrite)

    def _check_quality(self, suffix: str) -> None:
        if self.quality is not None and suffix.lower() == ".png":
            raise OutputError(f"--quality {self.quality} is for .jpg and .webp, not for .png, which loses nothing")


_EXTENSIONS = {Suffix.png: (".png",), Suffix.jpg: (".jpg", ".jpeg"), Suffix.webp: (".webp",)}


class Targets:
    """The paths of a request's images.

    Args:
        overwrite: replace files that are there.
        may_count: take the next free names where these are taken: ``stem-2.png``, ``stem-3.png`` …
    """

    def __init__(
        self, folder: Path, stem: str, suffix: str, samples: int, *, overwrite: bool = False, may_count: bool = False
    ) -> None:
        from intarsia.images.output_names import output_paths

        self._stem, self._suffix = stem, suffix
        self._overwrite, self._may_count = overwrite, may_count
        self.paths = output_paths(stem, folder, samples, suffix)
        self._count_up()

    def check(self) -> None:
        """Refuse what cannot be written, before the work; errors are those of :func:`intarsia.images.save.save`."""
        from intarsia.images.save import check_outputs

        check_outputs(self.paths, overwrite=self._overwrite)

    def save(
        self, images: Sequence[Image.Image], texts: Sequence[Mapping[str, Any]], quality: int | None
    ) -> tuple[str, ...]:
        """Write the images, all or none; returns warnings. Names taken since :meth:`check` are counted past."""
        from intarsia.images.encode import SaveOptions
        from intarsia.images.save import save_all

        options = SaveOptions(overwrite=self._overwrite)
        if quality is not None:
            options = SaveOptions(overwrite=self._overwrite, quality=quality, lossless=False)
        for _ in range(_TRIES):
            self._count_up()
            try:
                return save_all(list(zip(images, self.paths, strict=True)), texts, options)
            except OutputError:
                if not self._may_count or not any(map(os.path.lexists, self.paths)):
                    raise
        raise OutputError(f"{self.paths[0]} cannot be written: other processes keep taking its name")

    def _count_up(self) -> None:
        """Paths with numbers behind the highest that is taken, where one of these is."""
        if not self._may_count or not any(map(os.path.lexists, self.paths)):
            return
        folder = self.paths[0].parent
        first = _highest(folder, self._stem, self._suffix) + 1
        numbers = range(first, first + len(self.paths))
        self.paths = [folder / f"{self._stem}-{number}{self._suffix}" for number in numbers]


def _highest(folder: Path, stem: str, suffix: str) -> int:
    """The highest number of ``stem-N.suffix`` in a folder; 1 where there is none."""
    pattern = re.compile(re.escape(stem) + r"-([0-9]{1,9})" + re.escape(suffix))
    with os.scandir(folder) as entries:
        matches = [pattern.fullmatch(entry.name) for entry in entries]
    return max([1, *(int(match[1]) for match in matches if match)])


def _stem(image: object) -> str:
    """The name of the image's file; ``intarsia`` of one that is none."""
    is_file = isinstance(image, str) and len(image) < 1024 and os.path.isfile(image)
    return Path(str(image)).stem if is_file else "intarsia"
