"""Images with their masks, of two folders or of one, as a manifest; whatever is left out is named (:func:`notes`)."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from intarsia.batch.manifest.folders import NO_IMAGE, Listing, inode_of, list_images
from intarsia.batch.manifest.line import Line
from intarsia.batch.manifest.pairing import is_mask_name, masks_of_images
from intarsia.batch.settings import Pair
from intarsia.counted import counted
from intarsia.errors import RequestError, shown

__all__ = ["Album", "check", "notes", "open_album", "read"]

_LISTED = 20


@dataclass(frozen=True)
class Album:
    """Images and their masks.

    Attributes:
        masks: those of all images; None where one mask is for all.
        pairs: image → the masks that are called like it; one where all is well.
    """

    pair: Pair
    images: Listing
    masks: Listing | None
    pairs: Mapping[str, Sequence[str]]


def check(pair: Pair) -> None:
    """Raises :class:`RequestError` where a folder is not there."""
    if not os.path.isdir(pair.images):
        raise RequestError("--images", message=f"{pair.images}: there is no such folder of images")
    if not os.path.isdir(pair.masks) and not os.path.isfile(pair.masks):
        raise RequestError("--masks", message=f"{pair.masks}: there is no such folder of masks, nor mask")


def open_album(pair: Pair, out: Path | None = None) -> Album:
    """List both folders.

    Args:
        out: where outputs go. Below the images, neither it nor the folder of masks is gone into.

    Raises:
        RequestError: one folder is for both, and no name in it says that it is a mask's.
    """
    if os.path.isfile(pair.masks):
        return _with_one_mask(pair, out)

    if os.path.samefile(pair.images, pair.masks):
        images, masks = _divided(pair, list_images(pair.images, [out]))
    else:
        images = list_images(pair.images, [out, pair.masks])
        masks = list_images(pair.masks, [out, pair.images])
    return Album(pair, images, masks, masks_of_images(images.images, masks.images))


def _with_one_mask(pair: Pair, out: Path | None) -> Album:
    """One mask for all; it may lie among the images."""
    listing = list_images(pair.images, [out])
    mask = inode_of(os.stat(pair.masks))
    for name in [name for name, inode in listing.images.items() if inode == mask]:
        del listing.images[name]
        listing.left_out[name] = "the mask"
    return Album(pair, listing, None, {})


def _divided(pair: Pair, listing: Listing) -> tuple[Listing, Listing]:
    """Images and masks of one folder."""
    masks = {name: inode for name, inode in listing.images.items() if is_mask_name(name)}
    images = {name: inode for name, inode in listing.images.items() if name not in masks}
    if images and not masks:
        message = (
            f"{pair.images}: no file in this folder is called like a mask (NAME_mask.png beside NAME.jpg), so that "
            "each image would be its own mask; give --masks FOLDER, or name both in a manifest"
        )
        raise RequestError("--masks", message=message)
    return Listing(images, listing.left_out), Listing(masks, {})


def read(album: Album) -> Iterator[Line]:
    """A line for each image, sorted by path; an image whose mask is missing, or not the only one, has a problem."""
    if album.masks is None:
        mask = album.pair.masks.absolute()
        for number, name in enumerate(album.images.images, 1):
            yield Line(number, {"id": name, "init_image": name, "mask_image": str(mask)})
        return

    for number, name in enumerate(album.images.images, 1):
        masks = album.pairs[name]
        problem = _problem(album, name, masks)
        if problem:
            yield Line(number, {"id": name}, problem, "mask")
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
    """Sentences about what is left out of each folder, and about images and masks that are alone."""
    sentences = [_left_out(album.pair.images, album.images.left_out)]
    if album.masks is not None:
        sentences.append(_left_out(album.pair.masks, album.masks.left_out))
    if album.masks is not None and album.images.images:
        matched = {mask for masks in album.pairs.values() for mask in masks}
        alone = [name for name in album.masks.images if name not in matched]
        unmasked = [name for name, masks in album.pairs.items() if not masks]
        sentences.append(_alone(album.pair.masks, "mask", "without an image", alone))
        sentences.append(_alone(album.pair.images, "image", "without a mask", unmasked))
    return tuple(filter(None, sentences))


def _left_out(folder: Path, reasons: Mapping[str, str]) -> str:
    """One sentence about all that is left out of a folder: how many of each kind, and which."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        by_reason[reason].append(name)

    kinds = "; ".join(_of_one_reason(reason, names) for reason, names in sorted(by_reason.items()))
    return f"{folder}: {len(reasons):,} left out: {kinds}" if kinds else ""


def _of_one_reason(reason: str, names: Sequence[str]) -> str:
    """``hidden (3): 'a', …``; of files that are no images the extensions too."""
    counts = f"{len(names):,}"
    if reason == NO_IMAGE:
        suffixes = Counter(os.path.splitext(name)[1].lower() or "no extension" for name in names)
        kinds = (f"{count:,} {suffix}" for suffix, count in suffixes.most_common(_LISTED))
        counts = ", ".join(kinds)
    return f"{reason} ({counts}): {_enumerated(names)}"


def _alone(folder: Path, what: str, without: str, names: Sequence[str]) -> str:
    """A sentence about files that have no partner; "" where there are none."""
    if not names:
        return ""
    return f"{folder}: {counted(len(names), what)} {without}: {_enumerated(names)}"


def _enumerated(names: Sequence[str]) -> str:
    listed = ", ".join(map(shown, names[:_LISTED]))
    if len(names) <= _LISTED:
        return listed
    return f"{listed} and {len(names) - _LISTED:,} more"
