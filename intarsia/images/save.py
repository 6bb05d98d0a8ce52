"""Writing images: files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from intarsia.errors import OutputError
from intarsia.images.atomic_files import naming, place, sweep_once
from intarsia.images.embedded import NOTHING, EmbeddedMetadata
from intarsia.images.encode import SaveOptions, encode
from intarsia.images.output_names import format_of

__all__ = ["Written", "check_outputs", "save", "save_all", "write"]


@dataclass(frozen=True)
class Written:
    """A file that has been written.

    Attributes:
        data: its content.
        warnings: what the caller should know.
    """

    data: bytes
    warnings: tuple[str, ...]


def check_outputs(paths: Iterable[str | os.PathLike[str]], *, overwrite: bool = False) -> None:
    """Refuse, before any work is done, what :func:`save` would refuse after it.

    Raises:
        OutputError: unknown extension, a folder that is read-only or cannot be made, or a file that is already there.
    """
    for path in map(Path, paths):
        format_of(path)
        _check(path, overwrite)


def save(
    image: Image.Image,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    parameters: str | None = None,
    embedded: EmbeddedMetadata = NOTHING,
    options: SaveOptions | None = None,
) -> tuple[str, ...]:
    """Write an image; returns warnings. The file appears complete or not at all.

    Its folder is made where it is missing. It is written to a temporary file in the same folder, flushed to the disk
    and renamed; after a failure or an interruption nothing is left behind and a file that was there is as it was.

    Args:
        image: RGB or RGBA, or any mode that PNG has; its color profile (``info``) is kept.
        path: where to; the extension decides the format unless ``format`` does.
        format: "PNG", "JPEG" or "WEBP".
        metadata: written as JSON (PNG text ``intarsia``, else EXIF); None writes none.
        parameters: the text from :func:`intarsia.images.metadata.a1111_parameters`; None writes none.
        embedded: EXIF, XMP and density of the file that the image was made from.
        options: see :class:`SaveOptions`.

    Raises:
        OutputError: the file cannot be written, is there already, or the format is not known.
    """
    written = write(
        image,
        path,
        format=format,
        metadata=metadata,
        parameters=parameters,
        embedded=embedded,
        options=options,
    )
    return written.warnings


def save_all(
    images: Sequence[tuple[Image.Image, Path]],
    texts: Sequence[Mapping[str, Any]],
    options: SaveOptions | None = None,
) -> tuple[str, ...]:
    """Write images that belong together: all of them, or none, and then what they would replace is as it was.

    Unfinished files that a killed process left in their folders a day ago or earlier are removed first.

    Args:
        images: each with where it goes.
        texts: for each, ``metadata``, ``parameters`` and ``embedded`` of :func:`save`.

    Returns:
        warnings.

    Raises:
        OutputError: as of :func:`save`.
    """
    options = options or SaveOptions()
    warnings: list[str] = []
    files: list[tuple[Path, bytes]] = []

    for (image, path), text in zip(images, texts, strict=True):
        data, notes = _encoded(image, path, text, options)
        files.append((path, data))
        warnings += notes

    for folder in {path.parent for path, _ in files}:
        sweep_once(folder)
    _place(files, options.overwrite)
    return tuple(warnings)


def write(
    image: Image.Image,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    parameters: str | None = None,
    embedded: EmbeddedMetadata = NOTHING,
    options: SaveOptions | None = None,
) -> Written:
    """Like :func:`save`; returns the file's content too, for its hash or its size."""
    target = Path(path)
    options = options or SaveOptions()
    text = {"metadata": metadata, "parameters": parameters, "embedded": embedded}
    data, warnings = _encoded(image, target, text, options, format)

    _place([(target, data)], options.overwrite)
    return Written(data, warnings)


def _place(files: Sequence[tuple[Path, bytes]], overwrite: bool) -> None:
    """Put files in place, and make their folders; those are removed again where that fails."""
    made: list[Path] = []
    try:
        for folder in dict.fromkeys(path.parent for path, _ in files):
            with naming(files[0][0]):
                _make(folder, made)
        place(files, overwrite=overwrite)
    except BaseException:  # an interruption too must leave nothing behind
        for folder in reversed(made):
            with suppress(OSError):  # another process has put something there
                folder.rmdir()
        raise


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder and what is missing above it; those that this call made are added to ``made``."""
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    for each in reversed(missing):
        with suppress(FileExistsError):  # another process was faster; a file in its place fails below
            each.mkdir()
            made.append(each)


def _encoded(
    image: Image.Image, path: Path, text: Mapping[str, Any], options: SaveOptions, format: str | None = None
) -> tuple[bytes, tuple[str, ...]]:
    """The content of a file that can be written, as far as can be said before it is, and warnings.

    Args:
        text: ``metadata``, ``parameters`` and ``embedded`` of :func:`save`.
    """
    kind = format_of(path, format)
    _check(path, options.overwrite)
    try:
        return encode(image, kind, options=options, **text)
    except (OSError, ValueError) as exc:  # ValueError: a mode or a number that the format does not have
        raise _not_written(path, exc) from exc


def _check(path: Path, overwrite: bool) -> None:
    try:
        folder = next(each for each in path.absolute().parents if os.path.lexists(each))
        if not folder.is_dir():
            raise OutputError(f"{path} cannot be written: {folder} is no folder")
        if path.is_dir():
            raise OutputError(f"{path} cannot be written: it is a folder")
        if not overwrite and os.path.lexists(path):
            raise OutputError(f"{path} is already there; choose another name, or overwrite it (--overwrite)")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{path} cannot be written: the folder {folder} is read-only")
    except (OSError, ValueError) as exc:  # a name that is too long, or with a NUL character
        raise _not_written(path, exc) from exc


def _not_written(path: Path, exc: OSError | ValueError) -> OutputError:
    reason = getattr(exc, "strerror", None) or exc
    return OutputError(f"{path} cannot be written: {reason}")
