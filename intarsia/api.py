"""Functions of the public API that need no engine."""

from __future__ import annotations

import os

from intarsia.engine.plan import Plan
from intarsia.engine.request import InpaintRequest
from intarsia.engine.resolve import resolve
from intarsia.images.access import Access
from intarsia.registry.registry import Registry

__all__ = ["plan"]


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
