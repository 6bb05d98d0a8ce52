"""ICO: a directory of icons, of which the largest is taken."""

from __future__ import annotations

import struct
from dataclasses import replace

from intarsia.images.containers import png
from intarsia.images.containers.container import Container, Damaged

__all__ = ["SIGNATURE", "unpack"]

SIGNATURE = b"\0\0\1\0"

_ENTRY = "<BBBxHHII"  # width, height, colors, planes, bits, length and place
_MOST_ICONS = 1024
_LARGEST = 256


def unpack(data: bytes) -> Container:
    """A PNG where the largest icon is one, else an ICO with it alone.

    Raises:
        Damaged: it ends early, or has no icons, or more than files have.
    """
    try:
        (count,) = struct.unpack_from("<H", data, 4)
        if not 0 < count <= _MOST_ICONS:
            raise Damaged(f"must have 1 to {_MOST_ICONS} icons, not {count}")
        entries = [struct.unpack_from(_ENTRY, data, 6 + 16 * index) for index in range(count)]
    except struct.error as exc:
        raise Damaged("is truncated: the ICO ends in its directory") from exc

    _, _, colors, planes, bits, length, offset = max(entries, key=_rank)
    end = offset + length
    icon = data[offset:end] if end <= len(data) else b""
    if icon.startswith(png.SIGNATURE):
        only = png.unpack(icon)
        return replace(only, has_more=False)
    if len(icon) < 40:
        raise Damaged("is truncated: the ICO ends before its image")

    width, height_with_mask = struct.unpack_from("<ii", icon, 4)
    height = height_with_mask // 2  # the mask is stored as more rows
    if not (0 < width <= _LARGEST and 0 < height <= _LARGEST):
        raise Damaged(f"is damaged: an icon of {width}x{height} pixels")

    entry = struct.pack(_ENTRY, width % 256, height % 256, colors, planes, bits, length, 22)
    one_icon = SIGNATURE + b"\1\0" + entry + icon
    return Container(data=one_icon, kind="ICO", size=(width, height))


def _rank(entry: tuple[int, ...]) -> tuple[int, int, int]:
    """Pixels of an icon; of equal ones the most colors count. An entry has 0 for 256 pixels."""
    width, height, colors, _, bits, *_ = entry
    pixels = (width or _LARGEST) * (height or _LARGEST)
    return pixels, bits or 256, -colors
