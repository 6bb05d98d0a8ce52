"""What scripts begin with that tests run in interpreters of their own."""

from __future__ import annotations

BEGIN = """
import json, os, sys
import numpy as np
import intarsia
from intarsia.backends.null import NullSession

def request(seed=1, **fields):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:40, 16:40] = 255
    return intarsia.InpaintRequest(**{"init_image": image, "mask_image": mask, "seed": seed, "steps": 6, **fields})
"""
