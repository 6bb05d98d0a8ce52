"""diffusers' safety checker: a CLIP vision tower, and cosines with concepts that are not to be shown.

::

    config.json   model.safetensors   preprocessor_config.json

The rule is that of diffusers' ``StableDiffusionSafetyChecker``: an image is flagged where the cosine of its
embedding with one of 17 concepts exceeds that concept's threshold; being near one of three special-care concepts
lowers all thresholds by 0.01. Scores are rounded to three digits before they are compared with zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from intarsia.checkpoints.layout import find_weights
from intarsia.errors import BackendError, WeightsError, one_line
from intarsia.models.clip_config import read_checker_shape
from intarsia.models.clip_images import Floats, Pixels, Preprocessing, flagged, load_preprocessing
from intarsia.models.weight_files import check_size, fill, read_tensors, stored_names

__all__ = ["SafetyChecker", "SafetyNetwork", "load_safety_checker"]

CONCEPTS, SPECIAL_CARE = 17, 3
_NESTED, _TOWER = "vision_model.vision_model.", "vision_model."


class SafetyNetwork(nn.Module):
    """The tower and the concepts; parameter names are diffusers'.

    Args:
        vision: shape of the tower (:func:`intarsia.models.clip_config.vision_shape`).
        width: its ``projection_dim``, the length of embeddings.
    """

    def __init__(self, vision: Mapping[str, Any], width: int) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        # attention is named here, so that nothing else can name it
        config = CLIPVisionConfig(**vision, attn_implementation="sdpa")
        self.image_size = int(config.image_size)
        self.vision_model = CLIPVisionModel(config)
        self.visual_projection = nn.Linear(config.hidden_size, width, bias=False)
        self.concept_embeds = nn.Parameter(torch.ones(CONCEPTS, width))
        self.special_care_embeds = nn.Parameter(torch.ones(SPECIAL_CARE, width))
        self.concept_embeds_weights = nn.Parameter(torch.ones(CONCEPTS))
        self.special_care_embeds_weights = nn.Parameter(torch.ones(SPECIAL_CARE))

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings ``[N, width]`` of normalized squares ``[N, 3, crop, crop]``."""
        pooled = self.vision_model(pixels).pooler_output
        embeddings: Tensor = self.visual_projection(pooled)
        return embeddings

    def decide(self, embeddings: Tensor) -> list[bool]:
        """Which of the embeddings ``[N, width]`` are flagged."""
        special_cosines = _cosines(embeddings, self.special_care_embeds)
        special_thresholds = _array(self.special_care_embeds_weights)
        cosines = _cosines(embeddings, self.concept_embeds)
        thresholds = _array(self.concept_embeds_weights)
        return flagged(special_cosines - special_thresholds, cosines - thresholds)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()


def _cosines(embeddings: Tensor, concepts: Tensor) -> NDArray[np.float32]:
    """``[N, width]`` and ``[M, width]`` → ``[N, M]``."""
    unit_embeddings = functional.normalize(embeddings)
    unit_concepts = functional.normalize(concepts)
    return _array(unit_embeddings @ unit_concepts.T)


@dataclass(frozen=True, eq=False)
class SafetyChecker:
    """A loaded checker."""

    network: SafetyNetwork
    preprocessing: Preprocessing

    @torch.inference_mode()
    def check(self, images: Sequence[Pixels]) -> list[bool]:
        """Whether each image, uint8 ``[h, w, 3]`` of any size, shows one of the concepts anywhere.

        Raises:
            BackendError: an embedding that is not finite, so that there is no decision.
        """
        return [self._is_flagged(image) for image in images]

    def _is_flagged(self, image: Pixels) -> bool:
        return any(any(self._decide(pixels)) for pixels in self.preprocessing.batches(image))

    def _decide(self, pixels: Floats) -> list[bool]:
        device = self.network.concept_embeds.device
        on_device = torch.from_numpy(pixels).to(device)
        embeddings = self.network(on_device)
        if not bool(torch.isfinite(embeddings).all()):
            raise BackendError("the safety checker's embedding of an image is not finite")
        return self.network.decide(embeddings)


def load_safety_checker(folder: Path, device: torch.device | str = "cpu") -> SafetyChecker:
    """Load a checker's folder, in float32: the same decision on every device.

    Raises:
        WeightsError: anything missing, unreadable, refused or not fitting; one line that names the file.
    """
    device = torch.device(device)
    path = folder / "config.json"
    vision, width = read_checker_shape(path)
    preprocessing = load_preprocessing(folder / "preprocessor_config.json")
    files = find_weights(folder, "model")
    check_size(path, vision["num_hidden_layers"], len(stored_names(files)))

    network = _empty_network(path, vision, width)
    if network.image_size != preprocessing.crop:
        raise WeightsError(
            f"{folder}: preprocessor_config.json crops to {preprocessing.crop} pixels, "
            f"the tower of config.json takes {network.image_size}"
        )

    stored = read_tensors(files, device, torch.float32)
    network = fill(network, _fitting_names(stored), files[0])

    # a constant that is not stored; built on the meta device, it holds nothing yet
    tower = cast(Any, network.vision_model)
    embeddings = getattr(tower, _TOWER.rstrip("."), tower).embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device).expand(1, -1)
    return SafetyChecker(network, preprocessing)


def _empty_network(path: Path, vision: Mapping[str, Any], width: int) -> SafetyNetwork:
    """On the meta device; WeightsError where transformers refuses the shape."""
    try:
        with torch.device("meta"):
            return SafetyNetwork(vision, width)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError, ImportError) as exc:
        raise WeightsError(f"{path}: not a safety checker's config: {one_line(exc)}") from exc


def _fitting_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as transformers 5 has them: published checkers nest the tower in a second ``vision_model``."""
    fitting = {}
    for name, tensor in state.items():
        if name.endswith("embeddings.position_ids"):
            continue  # a constant that old files store
        if name.startswith(_NESTED):
            name = _TOWER + name.removeprefix(_NESTED)
        fitting[name] = tensor
    return fitting
