"""Sizes and positions of one request, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Box", "Geometry", "Size"]

Size = tuple[int, int]
"""Width and height in pixels."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are outside."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Every size and position of one request, in pixels; sizes are ``(width, height)``.

    Attributes:
        width, height: generation size, multiples of 8.
        source: the image as it came, upright.
        working: the image that is composited into, and the output: ``source``, or the fixed size.
        crop: ``(x0, y0, x1, y1)`` of the generated area in the working image.
        resized: size of the crop as generated.
        offset: ``(x, y)`` of the resized crop in the generated image; the rest is padding.
    """

    width: int
    height: int
    source: Size
    working: Size
    crop: Box
    resized: Size
    offset: Size

    @property
    def output(self) -> Size:
        """Size of the finished image."""
        return self.working

    @property
    def crop_size(self) -> Size:
        """Size of the crop in the working image."""
        x0, y0, x1, y1 = self.crop
        return x1 - x0, y1 - y0

    @property
    def scale(self) -> float:
        """Generated pixels per working pixel."""
        longest_generated = max(self.resized)
        longest_working = max(self.crop_size)
        return longest_generated / longest_working

    @property
    def padding(self) -> Box:
        """Padded pixels: left, top, right, bottom."""
        x, y = self.offset
        width, height = self.resized
        right = self.width - x - width
        bottom = self.height - y - height
        return x, y, right, bottom
