"""Images as CLIP's image encoder of an IP adapter takes them. Without torch."""

from __future__ import annotations

import numpy as np

from intarsia.models.clip_images import Floats, Pixels, Preprocessing

__all__ = ["encoder_pixels"]

# CLIP's own (Radford et al. 2021), which the encoders of all published adapters have.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def encoder_pixels(image: Pixels, size: int) -> Floats:
    """uint8 ``[h, w, 3]`` of any size → ``[1, 3, size, size]``: its center, resized and normalized."""
    preprocessing = Preprocessing(size=size, crop=size, mean=_MEAN, std=_STD)
    windows = preprocessing.windows(image)
    center = windows[len(windows) // 2]
    return preprocessing.normalize([np.ascontiguousarray(center)])
