"""Names of output files, and the format that an extension or a caller names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from intarsia.errors import OutputError

__all__ = ["FORMATS", "Format", "format_of", "output_names", "output_paths"]

Format = Literal["PNG", "JPEG", "WEBP"]

FORMATS: dict[str, Format] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File name extension → format."""

_NAMES: dict[str, Format] = {"PNG": "PNG", "JPEG": "JPEG", "JPG": "JPEG", "WEBP": "WEBP"}


def output_paths(stem: str, folder: str | os.PathLike[str], samples: int, ext: str = ".png") -> list[Path]:
    """``folder/stem.png``, or ``-1``, ``-2`` … after the stem where there are several samples; ``ext`` as written.

    Raises:
        OutputError: an extension of no known format, or a stem that is not a file name.
    """
    names = output_names(stem, samples, ext)
    return [Path(folder) / name for name in names]


def output_names(stem: str, samples: int, ext: str = ".png") -> list[str]:
    """Like :func:`output_paths`, without a folder, and without pathlib: a batch asks for those of every row."""
    suffix = "." + ext.lstrip(".")
    is_folder = stem in ("", ".", "..") or os.path.basename(stem) != stem
    if is_folder or "\0" in stem:
        raise OutputError(f"the name of an output must be a file name without a folder, not {stem!r}")
    if suffix.lower() not in FORMATS:
        format_of(Path(f"{stem}{suffix}"))

    if samples == 1:
        return [f"{stem}{suffix}"]
    return [f"{stem}-{number}{suffix}" for number in range(1, samples + 1)]


def format_of(path: Path, name: str | None = None) -> Format:
    """The format of that name, or without one that of the path's extension.

    Raises:
        OutputError: no such format, or no known extension.
    """
    if name is not None:
        format = _NAMES.get(name.upper())
        if format is None:
            raise OutputError(f"format must be one of PNG, JPEG, WEBP, not {name!r}")
        return format

    format = FORMATS.get(path.suffix.lower())
    if format is None:
        extensions = ", ".join(FORMATS)
        raise OutputError(f"{path}: the extension must be one of {extensions}, not {path.suffix!r}")
    return format
