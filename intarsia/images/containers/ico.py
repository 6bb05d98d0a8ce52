"""ICO: a directory of icons, of which the largest is taken."""

from __future__ import annotations

import struct
from dataclasses import replace

from intarsia.images.containers import png
from intarsia.images.containers.container import Container, Damaged

__all__ = ["SIGNATURE", "unpack"]

SIGNATURE = b"\0\0\1\0"

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
        entries = [struct.unpack_from("<BBBxHHII", data, 6 + 16 * index) for index in range(count)]
    except struct.error as exc:
        raise Damaged("is truncated: the ICO ends in its directory") from exc

    _, _, colors, planes, bits, length, offset = max(entries, key=_rank)
    icon = data[offset : offset + length] if offset + length <= len(data) else b""
    if icon.startswith(png.SIGNATURE):
        return replace(png.unpack(icon), has_more=False)
    if len(icon) < 40:
        raise Damaged("is truncated: the ICO ends before its image")

    across, down = struct.unpack_from("<ii", icon, 4)
    down //= 2  # the mask is stored as more rows
    if not (0 < across <= _LARGEST and 0 < down <= _LARGEST):
        raise Damaged(f"is damaged: an icon of {across}x{down} pixels")
    entry = struct.pack("<BBBxHHII", across % 256, down % 256, colors, planes, bits, length, 22)
    return Container(data=SIGNATURE + b"\1\0" + entry + icon, kind="ICO", size=(across, down))


def _rank(entry: tuple[int, ...]) -> tuple[int, int, int]:
    """Pixels of an icon; of equal ones the most colors count. An entry has 0 for 256 pixels."""
    width, height, colors, _, bits, *_ = entry
    return (width or _LARGEST) * (height or _LARGEST), bits or 256, -colors
