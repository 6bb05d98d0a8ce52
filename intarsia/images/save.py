"""Writing images: names, formats, metadata, and files that appear whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from intarsia.errors import OutputError
from intarsia.former_name import NAME
from intarsia.images.atomic_files import place, sweep_once
from intarsia.images.fill import opaque
from intarsia.images.metadata import a1111_parameters, as_text, exif, to_json

__all__ = [
    "FORMATS",
    "SaveOptions",
    "Written",
    "a1111_parameters",
    "check_outputs",
    "encode",
    "output_names",
    "output_paths",
    "save",
    "save_all",
    "write",
]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""File name extension → format."""

# A JPEG segment holds 65,535 bytes, two of them its length, six the word "Exif".
_LONGEST_EXIF = 65535 - 8


@dataclass(frozen=True)
class SaveOptions:
    """How an image is encoded and written.

    Attributes:
        quality: JPEG and lossy WebP, 1 … 100.
        lossless: WebP without loss. JPEG is never lossless: outside the mask its pixels do change, and a warning says
            so.
        compression: PNG, 0 (fast) … 9 (small).
        overwrite: replace a file that is there; otherwise it is an error.

    Raises:
        OutputError: a value outside its limits.
    """

    quality: int = 95
    lossless: bool = True
    compression: int = 6
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise OutputError(f"quality must be between 1 and 100, not {self.quality}")
        if not 0 <= self.compression <= 9:
            raise OutputError(f"compression must be between 0 and 9, not {self.compression}")


@dataclass(frozen=True)
class Written:
    """A file that has been written.

    Attributes:
        data: its content.
        warnings: what the caller should know.
    """

    data: bytes
    warnings: tuple[str, ...]


def output_paths(stem: str, folder: str | os.PathLike[str], samples: int, ext: str = ".png") -> list[Path]:
    """``folder/stem.png``, or ``-1``, ``-2`` … after the stem where there are several samples; ``ext`` as written.

    Raises:
        OutputError: an extension of no known format, or a stem that is not a file name.
    """
    return [Path(folder) / name for name in output_names(stem, samples, ext)]


def output_names(stem: str, samples: int, ext: str = ".png") -> list[str]:
    """Like :func:`output_paths`, without a folder, and without pathlib: a batch asks for those of every row."""
    suffix = "." + ext.lstrip(".")
    if not stem or stem in (".", "..") or os.path.basename(stem) != stem or "\0" in stem:
        raise OutputError(f"the name of an output must be a file name without a folder, not {stem!r}")
    if suffix.lower() not in FORMATS:
        _format_of(Path(f"{stem}{suffix}"), None)
    names = [stem] if samples == 1 else [f"{stem}-{number}" for number in range(1, samples + 1)]
    return [f"{name}{suffix}" for name in names]


def check_outputs(paths: Iterable[str | os.PathLike[str]], *, overwrite: bool = False) -> None:
    """Refuse, before any work is done, what :func:`save` would refuse after it.

    Raises:
        OutputError: unknown extension, missing or read-only folder, or a file that is already there.
    """
    for path in map(Path, paths):
        _format_of(path, None)
        _check(path, overwrite)


def save(
    image: Image.Image,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    parameters: str | None = None,
    options: SaveOptions | None = None,
) -> tuple[str, ...]:
    """Write an image; returns warnings. The file appears complete or not at all.

    It is written to a temporary file in the same folder, flushed to the disk and renamed; after a failure
    or an interruption nothing is left behind and a file that was there is as it was.

    Args:
        image: RGB or RGBA, or any mode that PNG knows; its color profile (``info``) is kept.
        path: where to; the extension decides the format unless ``format`` does.
        format: "PNG", "JPEG" or "WEBP".
        metadata: written as JSON (PNG text ``intarsia``, else EXIF); None writes none.
        parameters: the text from :func:`a1111_parameters`; None writes none.
        options: see :class:`SaveOptions`.

    Raises:
        OutputError: the file cannot be written, is there already, or the format is not known.
    """
    return write(image, path, format=format, metadata=metadata, parameters=parameters, options=options).warnings


def save_all(
    images: Sequence[tuple[Image.Image, Path]],
    texts: Sequence[Mapping[str, Any]],
    options: SaveOptions | None = None,
) -> tuple[str, ...]:
    """Write images that belong together: all of them, or none, and then what they would replace is as it was.

    Unfinished files that a killed process left in their folders a day ago or earlier are removed first.

    Args:
        images: each with where it goes.
        texts: for each, ``metadata`` and ``parameters`` of :func:`save`.

    Returns:
        warnings.

    Raises:
        OutputError: as of :func:`save`.
    """
    options = options or SaveOptions()
    warnings: list[str] = []
    files: list[tuple[Path, bytes]] = []
    for (image, path), text in zip(images, texts, strict=True):
        data, notes = _encoded(image, path, None, options, text)
        files.append((path, data))
        warnings += notes
    for folder in {path.parent for path, _ in files}:
        sweep_once(folder)
    place(files, overwrite=options.overwrite)
    return tuple(warnings)


def write(
    image: Image.Image,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    parameters: str | None = None,
    options: SaveOptions | None = None,
) -> Written:
    """Like :func:`save`; returns the file's content too, for whoever needs its hash or its size."""
    options, target = options or SaveOptions(), Path(path)
    data, warnings = _encoded(image, target, format, options, {"metadata": metadata, "parameters": parameters})
    place([(target, data)], overwrite=options.overwrite)
    return Written(data, warnings)


def _encoded(
    image: Image.Image, path: Path, format: str | None, options: SaveOptions, text: Mapping[str, Any]
) -> tuple[bytes, tuple[str, ...]]:
    """The content of a file that can be written, as far as can be said before it is, and warnings."""
    kind = _format_of(path, format)
    _check(path, options.overwrite)
    try:
        return encode(image, kind, options=options, **text)
    except (OSError, ValueError) as exc:  # ValueError: a mode or a number that the format does not have
        raise OutputError(f"{path} cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc


def encode(
    image: Image.Image,
    format: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    parameters: str | None = None,
    options: SaveOptions | None = None,
) -> tuple[bytes, tuple[str, ...]]:
    """The encoded file and warnings; arguments as in :func:`save`. The image's own text is not copied."""
    options = options or SaveOptions()
    warnings: tuple[str, ...] = ()
    settings: dict[str, Any] = {"icc_profile": image.info.get("icc_profile")}
    if format == "PNG":
        settings |= {"compress_level": options.compression, "pnginfo": _png_text(metadata, parameters)}
    else:
        block, warnings = _exif(format, metadata, parameters)
        settings |= {"quality": options.quality, "exif": block}
    if format == "JPEG":
        settings |= {"subsampling": 0}
        warnings += ("JPEG is lossy: pixels outside the mask are not exactly the input's",)
        if image.has_transparency_data:
            warnings += ("JPEG has no transparency: the alpha channel was left out",)
        image = _without_alpha(image)
    elif format == "WEBP":
        # exact: colors under transparent pixels are kept, as everywhere outside the mask
        settings |= {"lossless": options.lossless, "exact": True, "method": 4}
        if not options.lossless:
            warnings += ("WebP with loss: pixels outside the mask are not exactly the input's",)
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue(), warnings


def _png_text(metadata: Mapping[str, Any] | None, parameters: str | None) -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    if parameters is not None:
        text.add_text("parameters", as_text(parameters))
    if metadata is not None:
        text.add_text(NAME, to_json(metadata, ascii_only=True))
    return text


def _exif(format: str, metadata: Mapping[str, Any] | None, parameters: str | None) -> tuple[bytes, tuple[str, ...]]:
    """The EXIF block; where JPEG cannot hold it, without the JSON, then without anything."""
    if metadata is None and parameters is None:
        return b"", ()
    block = exif(parameters, metadata)
    if format != "JPEG" or len(block) <= _LONGEST_EXIF:
        return block, ()
    block = exif(parameters, None)
    if len(block) <= _LONGEST_EXIF:
        return block, ("the metadata are too long for JPEG: only the parameters text was written",)
    return b"", ("the metadata are too long for JPEG and were left out",)


def _without_alpha(image: Image.Image) -> Image.Image:
    """RGB (or L): what is to be seen as stored, the rest in the colors around it, none mixed with a background."""
    if image.mode in ("RGB", "L"):
        return image
    levels = np.asarray(image.convert("RGBA"))
    return Image.fromarray(opaque(levels[:, :, :3], levels[:, :, 3]))


def _format_of(path: Path, format: str | None) -> str:
    if format is not None:
        name = {"JPG": "JPEG"}.get(format.upper(), format.upper())
        if name not in FORMATS.values():
            raise OutputError(f"format must be one of PNG, JPEG, WEBP, not {format!r}")
        return name
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        allowed = ", ".join(FORMATS)
        raise OutputError(f"{path}: the extension must be one of {allowed}, not {path.suffix!r}") from None


def _check(path: Path, overwrite: bool) -> None:
    folder = path.parent
    try:
        if not folder.is_dir():
            raise OutputError(f"{path} cannot be written: there is no folder {folder}")
        if path.is_dir():
            raise OutputError(f"{path} cannot be written: it is a folder")
        if not overwrite and os.path.lexists(path):
            raise OutputError(f"{path} is already there; choose another name or ask to overwrite it")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{path} cannot be written: the folder {folder} is read-only")
    except (OSError, ValueError) as exc:  # a name that is too long, or with a NUL character
        raise OutputError(f"{path} cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc
