"""Thumbnails of a contact sheet: before, mask and after of one row, side by side in one small JPEG.

Files are read as a run reads them, through :mod:`intarsia.images.containers` and with its limit of pixels. A JPEG is
decoded at an eighth, a quarter or half of its size where that suffices.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from intarsia.images.containers import jpeg, png, unpack
from intarsia.images.decode import check_size, opened
from intarsia.images.rgb_image import from_bytes

__all__ = ["GAP", "LAYOUT", "READY", "SIDE", "Thumbnail", "ThumbnailTask", "make_thumbnail", "width_of"]

SIDE = 128
"""Pixels of each image's square."""

GAP = 4
LAYOUT = 1
"""Version of how thumbnails look; others are made again."""

READY = b'"ready"\n'
"""The first line of a process that makes thumbnails, once it has come up."""

_QUALITY = 70
_PAPER, _MISSING, _BEHIND = (255, 255, 255), (208, 208, 208), (160, 160, 160)

_SIGNATURES = (jpeg.SIGNATURE, png.SIGNATURE)

# EXIF orientation → Pillow's way of turning an image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class ThumbnailTask:
    """What one thumbnail is made of.

    Attributes:
        key: the name of its file begins with it.
        before, mask: paths; None where the input is no file.
        after: paths, one for each sample.
    """

    key: str
    before: str | None
    mask: str | None
    after: tuple[str, ...]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ThumbnailTask:
        """The task that :meth:`to_json` gave."""
        return cls(**{**values, "after": tuple(values["after"])})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail's file, relative to the folder of thumbnails.

    Attributes:
        name: "" where there is none.
        change: mean difference of before and after, in 8-bit levels, inside or outside the mask, whichever is more;
            None where it cannot be told.
    """

    name: str
    change: int | None = None

    @classmethod
    def of_name(cls, name: str) -> Thumbnail:
        """A file's name holds the change, so that nothing else has to be kept."""
        _, _, change = os.path.splitext(name)[0].rpartition("-")
        return cls(name, int(change) if change.isdigit() else None)


def width_of(outputs: int) -> int:
    """The width of a thumbnail with that many outputs; a row without any has an empty square in their place."""
    squares = 2 + max(outputs, 1)
    return squares * (SIDE + GAP) - GAP


def make_thumbnail(task: ThumbnailTask, folder: Path, outputs: Sequence[Image.Image] | None = None) -> Thumbnail:
    """Make a thumbnail and put it in place whole. What cannot be read is a gray square.

    Args:
        folder: of thumbnails.
        outputs: the images in ``task.after``, where they are in memory; None to read them.

    Raises:
        OSError: it cannot be written.
    """
    before, mask = _small(task.before), _small_mask(task.mask)
    if outputs is None:
        after = [_small(path) for path in task.after]
    else:
        after = [_opaque(_reduced(image)) for image in outputs]
    squares = [before, mask, *(after or [None])]

    strip = Image.new("RGB", (width_of(len(after)), SIDE), _PAPER)
    for place, square in enumerate(squares):
        _paste(strip, square, place * (SIDE + GAP))

    change = _change(before, mask, after)
    ending = "none" if change is None else f"{change:03d}"
    name = f"{task.key[:2]}/{task.key}-{ending}.jpg"
    _write(folder / name, strip)
    return Thumbnail(name, change)


def _paste(strip: Image.Image, square: Image.Image | None, left: int) -> None:
    if square is None:
        strip.paste(_MISSING, (left, 0, left + SIDE, SIDE))
        return
    width, height = square.size
    strip.paste(square, (left + (SIDE - width) // 2, (SIDE - height) // 2))


def _write(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    temporary = path.with_name(f".intarsia-{path.name}.part")
    try:
        temporary.write_bytes(buffer.getvalue())
    except FileNotFoundError:  # the first one in this folder
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(buffer.getvalue())
    os.replace(temporary, path)


def _small_mask(path: str | None) -> Image.Image | None:
    """As :func:`_small`; of a mask that many rows share, the one that was read before."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return _known_mask(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _known_mask(path: str, size: int, changed: int) -> Image.Image | None:
    """The mask in a file of that size and time of change."""
    return _small(path)


def _small(path: str | None) -> Image.Image | None:
    """An image upright, in RGB or gray, at most :data:`SIDE` pixels a side; None where there is none to be read."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            data = file.read()
        return _plain(data) or _any(data, path)
    except Exception:  # noqa: BLE001 - a decoder fed with damaged data raises anything at all
        return None


def _any(data: bytes, path: str) -> Image.Image:
    """Any image, decoded as a run does."""
    return _opaque(_reduced(from_bytes("image", data, path).to_pil()))


def _opaque(image: Image.Image) -> Image.Image:
    """The image; what is transparent in it is laid upon gray."""
    if image.mode != "RGBA":
        return image
    behind = Image.new("RGB", image.size, _BEHIND)
    behind.paste(image, mask=image.getchannel("A"))
    return behind


def _plain(data: bytes) -> Image.Image | None:
    """What most images are, in a third of the time: a JPEG, or a PNG of 8 bits without palette; None for all others."""
    if not data.startswith(_SIGNATURES):
        return None
    container = unpack(data)
    if container.size is None or container.bits > 8 or container.key is not None:
        return None

    check_size(container.size, None)
    with opened(container) as image:
        if image.mode not in ("RGB", "RGBA", "L", "CMYK", "1"):
            return None
        check_size(image.size, None)
        image.draft("RGB" if image.mode == "CMYK" else image.mode, _fitted(image.size))
        small = _reduced(image)
    if small.mode in ("CMYK", "1"):
        small = small.convert("RGB")
    turn = _UPRIGHT.get(container.orientation)
    return _opaque(small if turn is None else small.transpose(turn))


def _reduced(image: Image.Image) -> Image.Image:
    """In two steps: by a whole number, which is quick, then to the very size."""
    size = _fitted(image.size)
    factor = max(image.size) // SIDE
    if factor > 1 and image.mode != "1":
        image = image.reduce(factor)
    return image.copy() if image.size == size else image.resize(size, Image.Resampling.BOX)


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    """The largest size of that shape in a square of :data:`SIDE`; small images stay as they are."""
    scale = min(SIDE / max(size), 1.0)
    width, height = (max(1, round(length * scale)) for length in size)
    return width, height


def _change(before: Image.Image | None, mask: Image.Image | None, after: Sequence[Image.Image | None]) -> int | None:
    """See :class:`Thumbnail`; of several samples the least."""
    outputs = [image for image in after if image is not None]
    if before is None or mask is None or not outputs:
        return None

    before = before.convert("RGB")
    inside = np.asarray(mask.convert("L").resize(before.size), np.float32) / np.float32(255)
    changes = [_weighted(before, image, inside) for image in outputs]
    return min(999, round(min(changes)))


def _weighted(before: Image.Image, after: Image.Image, inside: NDArray[np.float32]) -> float:
    """The mean difference of the channels, in the mask or around it, whichever is more.

    Args:
        inside: ``[H, W]``, 0 … 1: how far each pixel is in the mask.
    """
    after = after.convert("RGB")
    if after.size != before.size:
        after = after.resize(before.size)
    red, green, blue = np.moveaxis(np.asarray(ImageChops.difference(before, after), np.float32), 2, 0)
    difference = (red + green + blue) / 3

    area, difference_inside = float(inside.sum()), float((difference * inside).sum())
    around, difference_around = inside.size - area, float(difference.sum()) - difference_inside
    return max(difference_inside / max(area, 1.0), difference_around / max(around, 1.0))
