"""What a request may make this machine read, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

from intarsia.errors import RequestError, expect

__all__ = ["MAX_PIXELS", "Access", "pixel_limit"]

MAX_PIXELS = 64 * 1024 * 1024
"""Pixels of the largest image that is decoded by default: what cameras and telephones have, 61 and 64 million."""

_PILLOWS = 1024 * 1024 * 1024 // 4 // 3  # what Pillow sets by itself


@dataclass(frozen=True, kw_only=True)
class Access:
    """The permissions and limits that a request's images are opened with.

    Attributes:
        allow_paths: files of this machine; False for a request that arrived over a network.
        allow_private_urls: URLs whose host is private, loopback, link-local or otherwise not public.
        max_bytes: largest image taken from a URL, in bytes, after any decompression.
        seconds: longest time for one image, from the look-up of the host's name to the last byte, redirects
            included.
        connect_seconds: longest time for one connection, TLS included.
        max_redirects: how many are followed; each target is checked as the first address was.
        max_pixels: largest image that is decoded, width times height; None is what :func:`pixel_limit` says.

    Raises:
        RequestError: a permission that is no plain yes or no (any text would count as yes), or no number of pixels.
    """

    allow_paths: bool = True
    allow_private_urls: bool = False
    max_bytes: int = 64 * 1024 * 1024
    seconds: float = 30.0
    connect_seconds: float = 10.0
    max_redirects: int = 5
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        expect("allow_paths", self.allow_paths, bool, "True or False")
        expect("allow_private_urls", self.allow_private_urls, bool, "True or False")

        expect("max_pixels", self.max_pixels, int | None, "a number of pixels or None")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise RequestError("max_pixels", self.max_pixels, "a number of pixels, at least 1")


def pixel_limit(max_pixels: int | None = None) -> float:
    """The limit that holds: ``max_pixels``, else ``PIL.Image.MAX_IMAGE_PIXELS`` where the program has set that.

    Where it has not, :data:`MAX_PIXELS`; infinity where it has set None, Pillow's word for no limit.
    """
    if max_pixels is not None:
        return max_pixels
    from PIL import Image  # slow to import, and most of this module's users never open an image

    if Image.MAX_IMAGE_PIXELS is None:
        return float("inf")
    if Image.MAX_IMAGE_PIXELS == _PILLOWS:
        return MAX_PIXELS
    return Image.MAX_IMAGE_PIXELS
