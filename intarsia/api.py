"""Functions of the public API for a caller without an engine: ``plan``, and ``inpaint`` with one that is kept."""

from __future__ import annotations

import atexit
import os
from typing import Any, Unpack

from intarsia.engine.engine import Engine
from intarsia.engine.plan import Plan
from intarsia.engine.request import InpaintRequest
from intarsia.engine.request_fields import RequestOptions
from intarsia.engine.resolve import resolve
from intarsia.engine.result import Result
from intarsia.errors import RequestError
from intarsia.images.access import Access
from intarsia.registry.registry import Registry
from intarsia.threads import lock_across_forks

__all__ = ["inpaint", "plan"]


def plan(
    request: InpaintRequest,
    weights: str | os.PathLike[str] | None = None,
    *,
    allow_private_urls: bool = False,
    max_pixels: int | None = None,
    precision: str | None = None,
) -> Plan:
    """What running ``request`` would do, without torch and without reading weights.

    Args:
        weights: path of a ``weights.toml`` whose entries go before all others.
        allow_private_urls: True fetches images from hosts that are not public too.
        max_pixels: largest image that is decoded; as for :class:`intarsia.Engine`.
        precision: as for :class:`intarsia.Engine`.

    Raises:
        BackendError: there is no such precision.
        RequestError, WeightsError: what running it would raise before anything is computed.
    """
    access = Access(allow_private_urls=allow_private_urls, max_pixels=max_pixels)
    return resolve(request, Registry(weights, precision), access).plan


def inpaint(image: Any, mask: Any = None, prompt: str = "", **options: Unpack[RequestOptions]) -> Result:
    """Repaint an image where its mask is white, in one line.

    >>> intarsia.inpaint("photo.png", "mask.png", "a red circle").images[0].save("out.png")  # doctest: +SKIP

    The engine is opened by the first call, kept for those that follow, and closed at the process's exit; it is what
    ``intarsia.Engine()`` opens. Calls from several threads share its batches.

    Args:
        image, mask: path, URL, data URI, raw base64, bytes, ``PIL.Image`` or numpy array. With ``extend`` the mask
            may be left out.
        prompt: what to paint; the empty prompt continues the background.
        options: any other field of :class:`intarsia.InpaintRequest`.

    Raises:
        RequestError, WeightsError, BackendError: as of :meth:`intarsia.Engine.run`.
    """
    for field, argument in (("init_image", "image"), ("mask_image", "mask")):
        if field in options:
            raise RequestError(field, message=f"{field} is given by the argument {argument} of inpaint")
    request = InpaintRequest(init_image=image, mask_image=mask, prompt=prompt, **options)
    return _kept.engine().run(request)


class _KeptEngine:
    """An engine that is opened when it is first asked for; another in a forked process, or once it has failed."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._process = 0
        self._lock = lock_across_forks()

    def engine(self) -> Engine:
        """The engine."""
        with self._lock:
            is_ours = self._process == os.getpid()
            if self._engine is None or not is_ours or not self._engine.is_open:
                self._engine, self._process = Engine(), os.getpid()
                atexit.register(self._engine.close, cancel=True)
            return self._engine


_kept = _KeptEngine()
