"""Preprocessing of images for CLIP's vision tower, and the safety checker's decision rule. Without torch.

The rule is that of diffusers' ``StableDiffusionSafetyChecker``; see :mod:`intarsia.models.safety`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.checkpoints.files import read_json
from intarsia.errors import WeightsError, one_line, shown
from intarsia.models.config_values import refuse, whole

__all__ = ["Floats", "Pixels", "Preprocessing", "flagged", "load_preprocessing"]

_CAUTION = np.float32(0.01)
# Windows of one forward: a large tower on a long image should not need more memory than on a square one.
_TOGETHER = 8
_MOST_SIDE = 4096

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """CLIP's image processor: resize, crop, normalize.

    Attributes:
        size: pixels of the shorter side after resizing (bicubic).
        crop: side of the square that the tower sees.
        mean, std: of each channel, on the scale 0…1.
    """

    size: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """From ``preprocessor_config.json``, in its older form (integers) and its newer one (named sides)."""
        steps = ("do_resize", "do_center_crop", "do_normalize", "do_rescale")
        fixed: dict[str, tuple[object, ...]] = dict.fromkeys(steps, (True,))
        fixed["resample"] = (int(Image.Resampling.BICUBIC),)
        refuse("image processor's", raw, fixed)

        size, crop = raw["size"], raw["crop_size"]
        shorter_side = size["shortest_edge"] if isinstance(size, Mapping) else size
        height, width = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
        sides = {"size": shorter_side, "crop_size": height}
        resized = whole("image processor", sides, "size", None, most=_MOST_SIDE)
        cropped = whole("image processor", sides, "crop_size", None, most=_MOST_SIDE)
        is_square_inside = height == width and cropped <= resized

        mean = tuple(map(float, raw["image_mean"]))
        std = tuple(map(float, raw["image_std"]))
        are_three = len(mean) == 3 and len(std) == 3
        are_finite = all(map(math.isfinite, (*mean, *std)))
        if not is_square_inside or not are_three or not are_finite or min(std) <= 0:
            raise ValueError("needs a square crop_size of at most size, and three of image_mean and image_std each")
        return cls(size=resized, crop=cropped, mean=mean, std=std)

    def windows(self, image: Pixels) -> list[Pixels]:
        """Squares ``[crop, crop, 3]`` that cover an image ``[h, w, 3]``; one for a square image.

        The central one is CLIP's center crop. diffusers checks that alone and misses both ends of a long image; here
        evenly spaced squares on both sides of it are checked as well.
        """
        crop = self.crop
        resized = self._resized(image)
        windows = []
        for top in _starts(resized.shape[0], crop):
            for left in _starts(resized.shape[1], crop):
                windows.append(resized[top : top + crop, left : left + crop])
        return windows

    def _resized(self, image: Pixels) -> Pixels:
        """``[h, w, 3]`` with :attr:`size` pixels on the shorter side."""
        height, width = image.shape[:2]
        shorter = min(height, width)
        target_width = int(self.size * width / shorter)
        target_height = int(self.size * height / shorter)
        resized = Image.fromarray(image).resize((target_width, target_height), Image.Resampling.BICUBIC)
        return np.asarray(resized)

    def normalize(self, windows: Sequence[Pixels]) -> Floats:
        """float32 ``[N, 3, crop, crop]``, as the tower takes it."""
        levels = np.stack(windows).transpose(0, 3, 1, 2)
        images = levels.astype(np.float32) / np.float32(255)
        mean = np.array(self.mean, np.float32)[:, None, None]
        std = np.array(self.std, np.float32)[:, None, None]
        return (images - mean) / std

    def batches(self, image: Pixels) -> Iterator[Floats]:
        """All windows of an image, normalized, a few at a time."""
        windows = self.windows(image)
        for first in range(0, len(windows), _TOGETHER):
            yield self.normalize(windows[first : first + _TOGETHER])


def _starts(length: int, crop: int) -> list[int]:
    """First pixels of windows that cover ``length``; an odd number of them, so that the middle one is central."""
    crops_beyond_first = length / crop - 1
    spans = 2 * math.ceil(crops_beyond_first / 2)
    if not spans:
        return [0]

    last_start = length - crop
    return [index * last_start // spans for index in range(spans + 1)]


def flagged(special: Floats, concepts: Floats) -> list[bool]:
    """Whether each embedding is near a concept that is not to be shown.

    Args:
        special: ``[N, 3]``, cosines with the special-care concepts less their thresholds.
        concepts: ``[N, 17]``, likewise.
    """
    is_special = (np.round(special, 3) > 0).any(axis=1, keepdims=True)
    caution = np.where(is_special, _CAUTION, np.float32(0))
    scores = np.round(concepts + caution, 3)
    return [bool((row > 0).any()) for row in scores]


def load_preprocessing(path: Path) -> Preprocessing:
    """Read ``preprocessor_config.json``; WeightsError where it is not a CLIP image processor's."""
    raw = read_json(path)
    try:
        return Preprocessing.from_dict(raw)
    except WeightsError as exc:
        raise WeightsError(f"{path}: {exc}") from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise WeightsError(f"{path}: not a CLIP image processor's config: {shown(one_line(exc))}") from exc
