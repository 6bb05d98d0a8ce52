"""GIF: blocks (Graphics Interchange Format, version 89a)."""

from __future__ import annotations

import struct

from intarsia.images.containers.container import MOST_PARTS, Container, Damaged

__all__ = ["SIGNATURES", "size_of", "unpack"]

SIGNATURES = (b"GIF87a", b"GIF89a")

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9


def size_of(data: bytes) -> tuple[int, int]:
    """``(width, height)`` of the screen; raises struct.error where the header is not there."""
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def unpack(data: bytes) -> Container:
    """The screen, the palettes and the first frame with its transparency are left.

    Raises:
        Damaged: no frame, or more blocks than an image has.
    """
    try:
        return _Blocks(data).container()
    except (struct.error, IndexError) as exc:
        raise Damaged("is truncated: the GIF ends before its image") from exc


class _Blocks:
    """A walk through one file. Full blocks hold 255 bytes; of smaller ones there may be only so many more."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._blocks_left = MOST_PARTS + len(data) // 128

    def container(self) -> Container:
        """Raises struct.error or IndexError where the file ends."""
        data = self._data
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        start = 13 + _palette_bytes(flags)
        image, control = self._next_image(start)
        if image is None:
            raise Damaged("is truncated or damaged: the GIF has no image")

        left, top, across, down, frame_flags = struct.unpack_from("<HHHHB", data, image + 1)
        first_block = image + 10 + _palette_bytes(frame_flags) + 1
        end = self._behind(first_block)
        following, _ = self._next_image(end, is_needed=False)

        # A frame may be larger than the screen.
        width = max(width, left + across)
        height = max(height, top + down)
        screen = struct.pack("<HH", min(width, 0xFFFF), min(height, 0xFFFF))

        parts = [data[:6], screen, data[10:start], control, data[image:end], bytes([_TRAILER])]
        return Container(
            data=b"".join(parts),
            kind="GIF",
            size=(width, height),
            has_more=following is not None,
        )

    def _next_image(self, position: int, is_needed: bool = True) -> tuple[int | None, bytes]:
        """Where the next frame begins, None without one, and its control block without what moves it."""
        data = self._data
        control = b""
        while is_needed or position < len(data):
            kind = data[position]
            if kind == _IMAGE:
                return position, control
            if kind == _TRAILER:
                break

            self._count()
            if kind == _EXTENSION:
                if data[position + 1] == _GRAPHIC_CONTROL and data[position + 2] >= 4:
                    is_keyed, key = data[position + 3] & 1, data[position + 6]
                    control = bytes([_EXTENSION, _GRAPHIC_CONTROL, 4, is_keyed, 0, 0, key, 0])
                position = self._behind(position + 2, is_needed)
            else:
                position += 1  # as decoders do
        return None, b""

    def _behind(self, position: int, is_needed: bool = True) -> int:
        """The end of a chain of data blocks."""
        data = self._data
        while is_needed or position < len(data):
            length = data[position]
            position += length + 1
            if not length:
                return position
            self._count()
        return position

    def _count(self) -> None:
        self._blocks_left -= 1
        if self._blocks_left < 0:
            raise Damaged("has more blocks than a GIF of its size needs")


def _palette_bytes(flags: int) -> int:
    if not flags & 0x80:
        return 0
    colors = 2 << (flags & 7)
    return 3 * colors
