"""A folder of images and a folder of masks as a manifest, matched by relative path without extension.

The content of a file decides whether it is an image; whatever is left out is named (:func:`notes`).
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from intarsia.batch.ledger.results import is_results
from intarsia.batch.manifest.line import Line
from intarsia.batch.settings import Pair
from intarsia.errors import RequestError, shown
from intarsia.images.rgb_image import FORMATS

__all__ = ["SUFFIXES", "Album", "check", "notes", "open_album", "read"]

SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".pfm", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ico",
}  # fmt: skip
"""Extensions of image files: what has one is a row, also where it is damaged. Other files are looked into."""

# What systems put into folders beside names that begin with a dot.
_LITTER = {"thumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin", "system volume information"}
_LISTED = 20
_Inode = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        images: relative path → device and inode, sorted by path.
        left_out: relative path → why it is no row.
    """

    images: dict[str, _Inode]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Album:
    """Images and their masks: a :class:`Listing` of each folder; None where one mask is for all."""

    pair: Pair
    images: Listing
    masks: Listing | None


def check(pair: Pair) -> None:
    """Raises :class:`RequestError` where a folder is not there, or is that of the masks too."""
    if not os.path.isdir(pair.images):
        raise RequestError("--images", message=f"{pair.images}: there is no such folder of images")
    if not os.path.isdir(pair.masks) and not os.path.isfile(pair.masks):
        raise RequestError("--masks", message=f"{pair.masks}: there is no such folder of masks, nor mask")
    if os.path.samefile(pair.images, pair.masks):
        message = f"{pair.masks}: this is the folder of images, so that each would be its own mask; put the masks into "
        raise RequestError("--masks", message=f"{message}a folder of their own, or name both in a manifest")


def open_album(pair: Pair, out: Path | None = None) -> Album:
    """List both folders.

    Args:
        out: where outputs go. Below the images, neither it nor the folder of masks is gone into.
    """
    if os.path.isdir(pair.masks):
        return Album(pair, _list(pair.images, [out, pair.masks]), _list(pair.masks, [out, pair.images]))
    images = _list(pair.images, [out])
    mask = _inode(os.stat(pair.masks))
    for name in [name for name, inode in images.images.items() if inode == mask]:
        del images.images[name]
        images.left_out[name] = "the mask"
    return Album(pair, images, None)


def read(album: Album) -> Iterator[Line]:
    """A line for each image, sorted by path; an image whose mask is missing, or not the only one, has a problem."""
    pair, masks = album.pair, None if album.masks is None else _by_stem(album.masks)
    for number, (name, inode) in enumerate(album.images.images.items(), 1):
        if masks is None or album.masks is None:
            yield Line(number, {"id": name, "init_image": name, "mask_image": str(pair.masks.absolute())})
            continue
        found = _masks_of(name, masks)
        if not found:
            yield Line(number, {"id": name}, f"{name} has no mask of that name in {pair.masks}")
        elif len(found) > 1:
            yield Line(
                number, {"id": name}, f"{name} has more than one mask: {', '.join(map(os.path.basename, found))}"
            )
        elif album.masks.images[found[0]] == inode:
            yield Line(number, {"id": name}, f"{name} is its own mask: {found[0]} in {pair.masks} is the same file")
        else:
            mask = str((pair.masks / found[0]).absolute())
            yield Line(number, {"id": name, "init_image": name, "mask_image": mask})


def notes(album: Album) -> tuple[str, ...]:
    """Sentences about what was left out of the images, one for each reason."""
    by_reason = defaultdict(list)
    for name, reason in album.images.left_out.items():
        by_reason[reason].append(name)
    return tuple(
        f"{album.pair.images}: left out, {reason}: {_enumerated(names)}" for reason, names in sorted(by_reason.items())
    )


def _enumerated(names: Sequence[str]) -> str:
    listed = ", ".join(shown(name) for name in names[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed} and {len(names) - _LISTED} more"


def _by_stem(masks: Listing) -> dict[str, list[str]]:
    """Masks by every text that they are looked up by."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in masks.images:
        for key in {key for stem in _stems(name) for key in _keys(stem)}:
            found[key].append(name)
    return found


def _masks_of(name: str, masks: dict[str, list[str]]) -> list[str]:
    """The masks of an image: of that very name, else composed otherwise (NFC, NFD), else in another case."""
    stems = _stems(name)
    tiers = zip(*map(_keys, stems), strict=True)
    return next((masks[key] for tier in tiers for key in tier if key in masks), [])


def _stems(name: str) -> list[str]:
    """A path without an image's extension; a name that has another one may also be meant as a whole."""
    stem, suffix = os.path.splitext(name)
    return [stem] if suffix.lower() in SUFFIXES or not suffix else [name, stem]


def _keys(stem: str) -> tuple[str, str, str]:
    composed = unicodedata.normalize("NFC", stem)
    return f"={stem}", f"~{composed}", f"*{composed.casefold()}"


def _list(folder: Path, others: Sequence[Path | None]) -> Listing:
    """What lies below the folder, but not below ``others`` in it. Links to folders are not followed."""
    here = os.path.realpath(folder)
    apart = {os.path.realpath(other) for other in others if other is not None} - {here}
    images: dict[str, _Inode] = {}
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
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(place, name)) not in apart]
        for name in folders:
            if reason := _reason_of_folder(os.path.join(place, name)):
                left_out[prefix + name] = reason
        folders[:] = [name for name in folders if prefix + name not in left_out]
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


def _reason_of_folder(path: str) -> str:
    """Why a folder is not gone into; "" where it is."""
    if _is_hidden(os.path.basename(path)):
        return "hidden"
    return "a link to a folder, which is not followed" if os.path.islink(path) else ""


def _look(path: str) -> tuple[_Inode, str]:
    """A file's device and inode, and why it is no row ("" where it is one)."""
    if _is_hidden(os.path.basename(path)):
        return (0, 0), "hidden"
    try:
        found = os.stat(path)
    except OSError as exc:
        broken = os.path.islink(path)
        return (0, 0), "a link to nothing" if broken else f"cannot be read ({exc.strerror})"
    if not stat.S_ISREG(found.st_mode):
        return (0, 0), "no regular file"
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES and not (found.st_size and _is_image(path, suffix)):
        return (0, 0), "no image of a kind that is read"
    return _inode(found), ""


def _inode(found: os.stat_result) -> _Inode:
    return found.st_dev, found.st_ino


def _is_image(path: str, suffix: str) -> bool:
    """Whether a file without an image's extension begins like one. The TIFF in a camera's raw file is its preview."""
    Image.init()
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            return not (image.format == "TIFF" and suffix)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True  # to be refused by name
    except Exception:  # noqa: BLE001 - decoders raise anything at all
        return False
