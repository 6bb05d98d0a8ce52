"""A folder of images and a folder of masks as a manifest, matched by relative path without extension.

The content of a file decides whether it is an image; whatever is left out is named (:func:`notes`).
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    """The image files below a folder.

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
        message = (
            f"{pair.masks}: this is the folder of images, so that each would be its own mask; "
            "put the masks into a folder of their own, or name both in a manifest"
        )
        raise RequestError("--masks", message=message)


def open_album(pair: Pair, out: Path | None = None) -> Album:
    """List both folders.

    Args:
        out: where outputs go. Below the images, neither it nor the folder of masks is gone into.
    """
    if os.path.isdir(pair.masks):
        images = _list(pair.images, [out, pair.masks])
        masks = _list(pair.masks, [out, pair.images])
        return Album(pair, images, masks)

    # One mask for all; it may lie among the images.
    listing = _list(pair.images, [out])
    mask = _inode(os.stat(pair.masks))
    for name in [name for name, inode in listing.images.items() if inode == mask]:
        del listing.images[name]
        listing.left_out[name] = "the mask"
    return Album(pair, listing, None)


def read(album: Album) -> Iterator[Line]:
    """A line for each image, sorted by path; an image whose mask is missing, or not the only one, has a problem."""
    names = album.images.images
    if album.masks is None:
        mask = album.pair.masks.absolute()
        for number, name in enumerate(names, 1):
            yield Line(number, {"id": name, "init_image": name, "mask_image": str(mask)})
        return

    masks_by_key = _by_key(album.masks)
    for number, name in enumerate(names, 1):
        masks = _masks_of(name, masks_by_key)
        problem = _problem(album, name, masks)
        if problem:
            yield Line(number, {"id": name}, problem)
        else:
            mask = (album.pair.masks / masks[0]).absolute()
            yield Line(number, {"id": name, "init_image": name, "mask_image": str(mask)})


def _problem(album: Album, name: str, masks: Sequence[str]) -> str:
    """Why an image with those masks is no row; "" where it is one."""
    folder = album.pair.masks
    if not masks:
        return f"{name} has no mask of that name in {folder}"
    if len(masks) > 1:
        return f"{name} has more than one mask: {', '.join(map(os.path.basename, masks))}"

    is_same_file = album.masks is not None and album.masks.images[masks[0]] == album.images.images[name]
    if is_same_file:
        return f"{name} is its own mask: {masks[0]} in {folder} is the same file"
    return ""


def notes(album: Album) -> tuple[str, ...]:
    """Sentences about what was left out of the images, one for each reason."""
    by_reason = defaultdict(list)
    for name, reason in album.images.left_out.items():
        by_reason[reason].append(name)

    folder = album.pair.images
    return tuple(f"{folder}: left out, {reason}: {_enumerated(names)}" for reason, names in sorted(by_reason.items()))


def _enumerated(names: Sequence[str]) -> str:
    listed = ", ".join(map(shown, names[:_LISTED]))
    if len(names) <= _LISTED:
        return listed
    return f"{listed} and {len(names) - _LISTED} more"


def _by_key(masks: Listing) -> dict[str, list[str]]:
    """Masks by every text that they are looked up by."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in masks.images:
        keys = {key for stem in _stems(name) for key in _keys(stem)}
        for key in keys:
            by_key[key].append(name)
    return by_key


def _masks_of(name: str, masks_by_key: Mapping[str, list[str]]) -> list[str]:
    """The masks of an image: of that very name, else composed otherwise (NFC, NFD), else in another case."""
    exact, composed, folded = zip(*map(_keys, _stems(name)), strict=True)
    for key in (*exact, *composed, *folded):
        if key in masks_by_key:
            return masks_by_key[key]
    return []


def _stems(name: str) -> list[str]:
    """A path without an image's extension; a name that has another one may also be meant as a whole."""
    stem, suffix = os.path.splitext(name)
    if not suffix or suffix.lower() in SUFFIXES:
        return [stem]
    return [name, stem]


def _keys(stem: str) -> tuple[str, str, str]:
    """A stem's keys, from exact to loose: as it is, composed, without case; a mark keeps them apart."""
    composed = unicodedata.normalize("NFC", stem)
    return f"={stem}", f"~{composed}", f"*{composed.casefold()}"


def _list(folder: Path, others: Sequence[Path | None]) -> Listing:
    """The image files below the folder, but not below ``others`` in it. Links to folders are not followed."""
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


def _look(path: str) -> tuple[_Inode, str]:
    """A file's device and inode, and why it is no row ("" where it is one)."""
    nothing: _Inode = (0, 0)
    if _is_hidden(os.path.basename(path)):
        return nothing, "hidden"

    try:
        status = os.stat(path)
    except OSError as exc:
        is_broken = os.path.islink(path)
        return nothing, "a link to nothing" if is_broken else f"cannot be read ({exc.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return nothing, "no regular file"

    suffix = os.path.splitext(path)[1].lower()
    if suffix in SUFFIXES or (status.st_size and _is_image(path, suffix)):
        return _inode(status), ""
    return nothing, "no image of a kind that is read"


def _inode(status: os.stat_result) -> _Inode:
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
