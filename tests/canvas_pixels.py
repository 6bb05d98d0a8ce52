"""Which pixels of a canvas a paste may change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intarsia.canvas.canvas import Canvas


def touched_pixels(canvas: Canvas) -> NDArray[np.bool_]:
    """bool ``[H, W]`` of the output: inside the feather, and inside the crop."""
    feathered = np.zeros(canvas.area.shape, dtype=np.bool_)
    x0, y0, x1, y1 = canvas.feather.box
    feathered[y0:y1, x0:x1] = canvas.feather.weights > 0

    cropped = np.zeros_like(feathered)
    x0, y0, x1, y1 = canvas.geometry.crop
    cropped[y0:y1, x0:x1] = True
    return feathered & cropped
