"""A small request over an image of noise, for tests of everything that does not depend on what is in the image."""

from __future__ import annotations

from typing import Any

import numpy as np

import intarsia


def noise_request(size: int, rows: slice, columns: slice, **fields: Any) -> intarsia.InpaintRequest:
    """A square of noise with these rows and columns under the mask, generated at its own size; `fields` go first."""
    image = np.random.default_rng(2).integers(0, 256, (size, size, 3), dtype=np.uint8)
    mask = np.zeros((size, size), np.uint8)
    mask[rows, columns] = 255
    defaults = {"prompt": "ab", "init_image": image, "mask_image": mask, "width": size, "height": size, "seed": 5}
    return intarsia.InpaintRequest(**{**defaults, **fields})
