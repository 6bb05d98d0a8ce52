"""Remarks on a canvas: what the caller should know about its size and its transparency, as sentences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intarsia.canvas.boxes import Geometry
from intarsia.canvas.options import CanvasOptions

__all__ = ["about_hidden", "about_scale"]

Mask = NDArray[np.bool_]

# Below this scale the repaint is visibly softer than the image that it is pasted into.
_SOFT = 0.75


def about_scale(layout: Geometry, options: CanvasOptions) -> tuple[str, ...]:
    """Remarks where less than the image is generated unasked, and where what is generated is enlarged afterwards."""
    if isinstance(options.mask_padding, int):
        return ()

    width, height = layout.crop_size
    generated = f"at {layout.width}x{layout.height}"
    if layout.scale < _SOFT:
        generated += f" and enlarged {1 / layout.scale:.1f} times"

    is_whole = layout.crop_size == layout.working
    if not is_whole:
        whole = "x".join(map(str, layout.working))
        return (
            f"the mask's surroundings, {width}x{height} of {whole}, were generated {generated}; "
            f"mask_padding 'whole' generates the whole image",
        )
    if layout.scale >= _SOFT:
        return ()
    if options.mask_padding == "auto":
        return (f"the whole image was generated {generated}: the mask needs that much around it",)
    return (
        f"the whole image was generated {generated}; "
        f"mask_padding 'auto' generates only the mask's surroundings, sharper",
    )


def about_hidden(hidden: Mask | None, area: Mask) -> tuple[str, ...]:
    """Warnings about transparent pixels, but for the plain case of a mask that covers a hole."""
    if hidden is None:
        return ()
    if hidden.all():
        return ("init_image is transparent everywhere: the network is shown plain gray",)

    masked = hidden[area]
    masked_hidden = int(np.count_nonzero(masked))
    if 0 < 2 * masked_hidden < masked.size:
        return ("the mask covers transparent pixels of init_image: what is repainted becomes opaque",)
    return ()
