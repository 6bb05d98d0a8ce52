"""What plans say about images that were opened before, so that the same images need not be decoded for another plan."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import TypeAlias

from intarsia.canvas.options import CanvasOptions
from intarsia.engine.plan import CanvasPlan
from intarsia.engine.request import InpaintRequest
from intarsia.images.access import Access
from intarsia.lru import Lru

__all__ = ["ImagesKey", "ImagesPlan", "KnownImages", "images_key"]

# Sets of images and options; an entry is about a kilobyte.
_KEPT = 1024

ImagesKey: TypeAlias = tuple[tuple[str | None, ...], CanvasOptions, int | None]
"""Hashes of the images' files, and all else that decides what a plan says about them."""


@dataclass(frozen=True, kw_only=True)
class ImagesPlan:
    """The parts of a plan that a request's images decide.

    Attributes:
        prompt_sha256: of the pixels of an IP adapter's image; "" without one.
    """

    canvas: CanvasPlan
    prompt_sha256: str = ""


class KnownImages:
    """The plans of the images that were opened last, without their pixels. May be used by several threads.

    Only what could be opened and prepared is in it: an image that is refused is looked at, and refused, each time.
    """

    def __init__(self) -> None:
        self._plans: Lru[ImagesKey, ImagesPlan] = Lru(_KEPT)
        self._lock = threading.Lock()

    def get(self, key: ImagesKey | None) -> ImagesPlan | None:
        """The plan of images; None where they have not been opened, or have no key."""
        if key is None:
            return None
        with self._lock:
            return self._plans.get(key)

    def put(self, key: ImagesKey | None, plan: ImagesPlan) -> None:
        """Keep the plan of images that have a key."""
        if key is None:
            return
        with self._lock:
            self._plans.put(key, plan)


def images_key(request: InpaintRequest, options: CanvasOptions, access: Access) -> ImagesKey | None:
    """The key of a request's images; None where one of them is no bytes, as a file may change under its name."""
    shown = None if request.ip_adapter is None else request.ip_adapter.image
    hashes: list[str | None] = []
    for image in (request.init_image, request.mask_image, shown):
        if image is not None and not isinstance(image, bytes):
            return None
        hashes.append(None if image is None else hashlib.sha256(image).hexdigest())
    return tuple(hashes), options, access.max_pixels
