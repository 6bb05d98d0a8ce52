"""The image files below a folder. Their content decides, not their extension; what is left out has its reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from intarsia.batch.ledger.results import is_results
from intarsia.images.containers.heif import is_heif
from intarsia.images.heif_decoder import NEEDS_HEIF, has_heif
from intarsia.images.rgb_image import FORMATS

__all__ = ["NO_IMAGE", "SUFFIXES", "Inode", "Listing", "inode_of", "list_images"]

SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".pfm", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ico", ".heic", ".heif", ".hif",
}  # fmt: skip
"""Extensions of image files: what has one is a row, also where it is damaged. Other files are looked into."""

# What systems put into folders beside names that begin with a dot.
_LITTER = {"thumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin", "system volume information"}
_HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
_HEAD = 256  # bytes in which a file says what it is

NO_IMAGE = "no image of a kind that is read"
"""Why a file is left out that is none."""

Inode = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """The image files below a folder.

    Attributes:
        images: relative path → device and inode, sorted by path.
        left_out: relative path → why it is no row.
    """

    images: dict[str, Inode]
    left_out: dict[str, str]


def list_images(folder: Path, others: Sequence[Path | None]) -> Listing:
    """The image files below the folder, but not below ``others`` in it. Links to folders are not followed."""
    here = os.path.realpath(folder)
    apart = {os.path.realpath(other) for other in others if other is not None} - {here}
    images: dict[str, Inode] = {}
    left_out: dict[str, str] = {}

    def note(error: OSError) -> None:
        left_out[os.path.relpath(error.filename, folder)] = f"cannot be read ({error.strerror})"

    for place, folders, files in os.walk(folder, onerror=note):
        inside = os.path.relpath(place, folder)
        prefix = "" if inside == "." else f"{inside}/"
        if prefix and any(map(is_results, files)):
            left_out[inside] = "outputs of another run"
            folders.clear()
            continue

        # os.walk goes into the folders that stay in the list.
        reasons = {name: _reason_of_folder(os.path.join(place, name), apart) for name in folders}
        left_out |= {prefix + name: reason for name, reason in reasons.items() if reason}
        folders[:] = [name for name, reason in reasons.items() if reason is None]

        for name in files:
            inode, reason = _look(os.path.join(place, name))
            if reason:
                left_out[prefix + name] = reason
            else:
                images[prefix + name] = inode
    return Listing(_sorted(images), _sorted(left_out))


def _sorted(entries: dict[str, T]) -> dict[str, T]:
    return dict(sorted(entries.items(), key=lambda entry: entry[0].split("/")))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _reason_of_folder(path: str, apart: Collection[str]) -> str | None:
    """Why a folder is not gone into: "" for those in ``apart``, which are not named; None where it is."""
    if os.path.realpath(path) in apart:
        return ""
    if _is_hidden(os.path.basename(path)):
        return "hidden"
    if os.path.islink(path):
        return "a link to a folder, which is not followed"
    return None


def _look(path: str) -> tuple[Inode, str]:
    """A file's device and inode, and why it is no row ("" where it is one)."""
    nothing: Inode = (0, 0)
    if _is_hidden(os.path.basename(path)):
        return nothing, "hidden"

    try:
        status = os.stat(path)
    except OSError as exc:
        is_broken = os.path.islink(path)
        return nothing, "a link to nothing" if is_broken else f"cannot be read ({exc.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return nothing, "no regular file"

    reason = _reason_of_content(path, status.st_size)
    return (nothing if reason else inode_of(status)), reason


def _reason_of_content(path: str, size: int) -> str:
    """Why a regular file is no row; "" where it is one."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in SUFFIXES - _HEIF_SUFFIXES:
        return ""
    if _is_heif(path):
        return "" if has_heif() else NEEDS_HEIF

    is_damaged_heif = has_heif() and suffix in _HEIF_SUFFIXES
    if is_damaged_heif or (size and _is_image(path, suffix)):
        return ""
    return NO_IMAGE


def _is_heif(path: str) -> bool:
    """Whether a file begins like HEIC; what cannot be read does not."""
    try:
        with open(path, "rb") as file:
            return is_heif(file.read(_HEAD))
    except OSError:
        return False


def inode_of(status: os.stat_result) -> Inode:
    """Device and inode: what two names of one file have in common."""
    return status.st_dev, status.st_ino


def _is_image(path: str, suffix: str) -> bool:
    """Whether a file without an image's extension begins like one. The TIFF in a camera's raw file is its preview."""
    Image.init()
    try:
        formats = [name for name in FORMATS if name in Image.OPEN]
        with Image.open(path, formats=formats) as image:
            is_raw_file = image.format == "TIFF" and suffix != ""
            return not is_raw_file
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True  # to be refused by name
    except Exception:  # noqa: BLE001 - decoders raise anything at all
        return False
