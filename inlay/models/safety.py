"""diffusers' safety checker: a CLIP vision tower, and cosines with concepts that are not to be shown.

::

    config.json   model.safetensors   preprocessor_config.json

The rule is that of diffusers' ``StableDiffusionSafetyChecker``: a picture is flagged where the cosine of its
embedding with one of 17 concepts exceeds that concept's threshold; being near one of three special-care concepts
lowers all thresholds by 0.01. Scores are rounded to three digits before they are compared with zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from inlay.errors import BackendError, WeightsError, shown
from inlay.models.config_values import refuse
from inlay.models.weight_files import fill, find_weights, one_line, read_json, read_tensors

__all__ = ["Preprocessing", "SafetyChecker", "SafetyNetwork", "load_safety_checker"]

CONCEPTS, SPECIAL_CARE = 17, 3
_CAUTION = np.float32(0.01)
_NESTED, _TOWER = "vision_model.vision_model.", "vision_model."
# Windows of one forward: a large tower on a long picture should not need more memory than on a square one.
_TOGETHER = 8

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """CLIP's image processor: resize, crop, normalise.

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
        resample = int(Image.Resampling.BICUBIC)
        refuse("image processor's", raw, {**dict.fromkeys(steps, (True,)), "resample": (resample,)})
        size, crop = raw["size"], raw["crop_size"]
        shortest = size["shortest_edge"] if isinstance(size, Mapping) else size
        sides = {crop["height"], crop["width"]} if isinstance(crop, Mapping) else {crop}
        mean, std = (tuple(map(float, raw[name])) for name in ("image_mean", "image_std"))
        made = cls(int(shortest), int(max(sides)), mean, std)
        if len(sides) != 1 or not 1 <= made.crop <= made.size or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("needs a square crop_size of at most size, and three of image_mean and image_std each")
        return made

    def windows(self, picture: Pixels) -> list[Pixels]:
        """Squares ``[crop, crop, 3]`` that cover a picture ``[h, w, 3]``; one for a square picture.

        The central one is CLIP's centre crop. diffusers looks at that alone, so that what stands at the ends of a
        long picture would pass unseen; here evenly spaced squares on both sides of it are looked at as well.
        """
        height, width = picture.shape[:2]
        shorter = min(height, width)
        target = (int(self.size * width / shorter), int(self.size * height / shorter))
        resized = np.asarray(Image.fromarray(picture).resize(target, Image.Resampling.BICUBIC))
        tops, lefts = (_starts(length, self.crop) for length in resized.shape[:2])
        return [resized[y : y + self.crop, x : x + self.crop] for y in tops for x in lefts]

    def normalise(self, windows: Sequence[Pixels]) -> Tensor:
        """float32 ``[N, 3, crop, crop]``, as the tower takes it."""
        levels = torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (levels - mean) / std


def _starts(length: int, crop: int) -> list[int]:
    """First pixels of windows that cover ``length``; an odd number of them, so that the middle one is central."""
    spans = 2 * math.ceil((length / crop - 1) / 2)
    return [place * (length - crop) // spans for place in range(spans + 1)] if spans else [0]


class SafetyNetwork(nn.Module):
    """The tower and the concepts; parameter names are diffusers'.

    Args:
        vision: the ``vision_config`` of the checker's ``config.json``.
        width: its ``projection_dim``, the length of embeddings.
    """

    def __init__(self, vision: Mapping[str, Any], width: int) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        config = CLIPVisionConfig.from_dict(dict(vision))
        self.image_size = int(config.image_size)
        self.vision_model = CLIPVisionModel(config)
        self.visual_projection = nn.Linear(config.hidden_size, width, bias=False)
        self.concept_embeds = nn.Parameter(torch.ones(CONCEPTS, width))
        self.special_care_embeds = nn.Parameter(torch.ones(SPECIAL_CARE, width))
        self.concept_embeds_weights = nn.Parameter(torch.ones(CONCEPTS))
        self.special_care_embeds_weights = nn.Parameter(torch.ones(SPECIAL_CARE))

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings ``[N, width]`` of normalised squares ``[N, 3, crop, crop]``."""
        embeddings: Tensor = self.visual_projection(self.vision_model(pixels).pooler_output)
        return embeddings

    def decide(self, embeddings: Tensor) -> list[bool]:
        """Which of the embeddings ``[N, width]`` are flagged."""
        special = _cosines(embeddings, self.special_care_embeds) - _array(self.special_care_embeds_weights)
        caution = np.where((np.round(special, 3) > 0).any(axis=1, keepdims=True), _CAUTION, np.float32(0))
        concepts = _cosines(embeddings, self.concept_embeds) - _array(self.concept_embeds_weights) + caution
        return [bool((np.round(scores, 3) > 0).any()) for scores in concepts]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()


def _cosines(embeddings: Tensor, concepts: Tensor) -> NDArray[np.float32]:
    return _array(functional.normalize(embeddings) @ functional.normalize(concepts).T)


@dataclass(frozen=True, eq=False)
class SafetyChecker:
    """A loaded checker."""

    network: SafetyNetwork
    preprocessing: Preprocessing

    @torch.inference_mode()
    def check(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Whether each picture, uint8 ``[h, w, 3]`` of any size, shows one of the concepts anywhere.

        Raises:
            BackendError: an embedding that is not finite, of which nothing can be said.
        """
        found: list[bool] = []
        for picture in pictures:
            windows = self.preprocessing.windows(picture)
            chunks = (windows[first : first + _TOGETHER] for first in range(0, len(windows), _TOGETHER))
            found.append(any(flagged for chunk in chunks for flagged in self._decide(chunk)))
        return found

    def _decide(self, windows: Sequence[Pixels]) -> list[bool]:
        device = self.network.concept_embeds.device
        embeddings = self.network(self.preprocessing.normalise(windows).to(device))
        if not bool(torch.isfinite(embeddings).all()):
            raise BackendError("the safety checker's embedding of a picture is not finite")
        return self.network.decide(embeddings)


def load_safety_checker(folder: Path, device: torch.device | str = "cpu") -> SafetyChecker:
    """Load a checker's folder, in float32: the same decision on every device.

    Raises:
        WeightsError: anything missing, unreadable, refused or not fitting; one line that names the file.
    """
    path, device = folder / "config.json", torch.device(device)
    raw = read_json(path)
    preprocessing = _preprocessing(folder / "preprocessor_config.json")
    files = find_weights(folder, "model")
    try:
        with torch.device("meta"):
            network = SafetyNetwork(raw["vision_config"], int(raw.get("projection_dim", 512)))
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as exc:
        raise WeightsError(f"{path}: not a safety checker's config: {one_line(exc)}") from exc
    if network.image_size != preprocessing.crop:
        raise WeightsError(
            f"{folder}: preprocessor_config.json crops to {preprocessing.crop} pixels, "
            f"the tower of config.json takes {network.image_size}"
        )
    state = _fitting_names(read_tensors(files, device, torch.float32))
    # a constant that is not stored; built on the meta device, it holds nothing yet
    tower = cast(Any, network.vision_model)
    embeddings = getattr(tower, _TOWER.rstrip("."), tower).embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device).expand(1, -1)
    return SafetyChecker(fill(network, state, files[0]), preprocessing)


def _preprocessing(path: Path) -> Preprocessing:
    raw = read_json(path)
    try:
        return Preprocessing.from_dict(raw)
    except WeightsError as exc:
        raise WeightsError(f"{path}: {exc}") from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise WeightsError(f"{path}: not a CLIP image processor's config: {shown(one_line(exc))}") from exc


def _fitting_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as transformers 5 has them: published checkers nest the tower in a second ``vision_model``."""
    return {
        _TOWER + name.removeprefix(_NESTED) if name.startswith(_NESTED) else name: tensor
        for name, tensor in state.items()
        if not name.endswith("embeddings.position_ids")  # a constant that old files store
    }
