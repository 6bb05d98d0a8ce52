"""A folder of pictures and a folder of masks as a manifest, matched by relative path without extension."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from inlay.batch.line import Line
from inlay.batch.settings import Pair
from inlay.errors import RequestError

__all__ = ["SUFFIXES", "check", "read"]

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2", ".ico",
}  # fmt: skip
"""Extensions of picture files."""


def check(pair: Pair) -> None:
    """Raises :class:`RequestError` where a folder is not there."""
    if not os.path.isdir(pair.images):
        raise RequestError("--images", message=f"{pair.images}: there is no such folder of pictures")
    if not os.path.isdir(pair.masks) and not os.path.isfile(pair.masks):
        raise RequestError("--masks", message=f"{pair.masks}: there is no such folder of masks, nor mask")


def read(pair: Pair, out: Path | None = None) -> Iterator[Line]:
    """A line for each picture, sorted by path; a picture whose mask is missing, or not the only one, has a problem.

    Args:
        out: where outputs go. Below the pictures, neither it nor the folder of masks is gone into.
    """
    masks = _by_stem(pair.masks, [out]) if os.path.isdir(pair.masks) else None
    for number, path in enumerate(_pictures(pair.images, [out, pair.masks]), 1):
        name = path.relative_to(pair.images)
        found = [pair.masks] if masks is None else masks.get(name.with_suffix("").as_posix(), [])
        if len(found) == 1:
            fields = {"id": name.as_posix(), "init_image": name.as_posix(), "mask_image": str(found[0].absolute())}
            yield Line(number, fields)
        elif found:
            names = ", ".join(each.name for each in found)
            yield Line(number, {"id": name.as_posix()}, f"{name.as_posix()} has more than one mask: {names}")
        else:
            problem = f"{name.as_posix()} has no mask of that name in {pair.masks}"
            yield Line(number, {"id": name.as_posix()}, problem)


def _by_stem(folder: Path, others: Sequence[Path | None]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in _pictures(folder, others):
        found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return found


def _pictures(folder: Path, others: Sequence[Path | None]) -> list[Path]:
    """Pictures below the folder, but not below ``others`` in it; hidden files are somebody's own business."""
    here = os.path.realpath(folder)
    apart = {os.path.realpath(other) for other in others if other is not None} - {here}
    paths = []
    for place, folders, files in os.walk(folder):
        if os.path.realpath(place) in apart:
            folders.clear()
            continue
        paths += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and os.path.isfile(path))
