"""The trained checker as a folder in diffusers' layout, float16, and its threshold."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from intarsia.models.safety import Preprocessing, SafetyNetwork, load_safety_checker
from tools.train_safety.pictures import draw_example
from tools.train_safety.settings import Settings
from tools.train_safety.train import CONCEPT_AXIS, preprocessing

LARGEST = 1_000_000  # bytes, all files together
NEVER = 2.0  # a threshold that no cosine exceeds
FALSE_ALARM = 6.0  # what a false alarm costs when the threshold is set; a miss costs 1


def export(network: SafetyNetwork, settings: Settings, target: Path) -> None:
    """Write the folder, all its concepts silent until the threshold is set; refuses more than 1 MB."""
    with torch.no_grad():
        network.concept_embeds_weights.fill_(NEVER)
        network.special_care_embeds_weights.fill_(NEVER)
    _write(network, settings, target)


def set_threshold(settings: Settings, target: Path) -> None:
    """Let the purple star speak; all other concepts stay in the file, and never do."""
    threshold = calibrate(target, settings.calibrating)
    network = load_safety_checker(target).network
    network.concept_embeds_weights[CONCEPT_AXIS] = threshold
    _write(network, settings, target)
    print(f"{target.name}: threshold {threshold:.4f}", flush=True)


@torch.no_grad()
def cosines(folder: Path, pictures: list[np.ndarray]) -> np.ndarray:
    """Cosine of each picture with the concept, by the weights of a written folder."""
    checker = load_safety_checker(folder)
    concept = checker.network.concept_embeds[CONCEPT_AXIS]
    windows = [checker.preprocessing.windows(picture)[0] for picture in pictures]
    batches = [windows[first : first + 32] for first in range(0, len(windows), 32)]
    embeddings = torch.cat([checker.network(checker.preprocessing.normalize(batch)) for batch in batches])
    return functional.cosine_similarity(embeddings, concept[None]).numpy()


def calibrate(folder: Path, count: int) -> float:
    """The threshold that costs least on pictures of a seed range of their own; the middle of it, if it is a range."""
    kinds = ["purple star" if index % 2 else None for index in range(count)]
    examples = [draw_example("calibrate", index, kind) for index, kind in enumerate(kinds)]
    found = cosines(folder, [example.picture for example in examples])
    stars = np.array([example.flagged for example in examples])
    candidates = np.linspace(-1, 1, 2001)
    missed = (found[stars] <= candidates[:, None]).mean(1)
    alarms = (found[~stars] > candidates[:, None]).mean(1)
    cost = missed + FALSE_ALARM * alarms
    return float(candidates[cost <= cost.min() + 1e-12].mean())


def _configuration(settings: Settings) -> dict[str, Any]:
    """What a published checker's config.json says, with this one's sizes."""
    return {
        "architectures": ["StableDiffusionSafetyChecker"],
        "model_type": "clip",
        "projection_dim": settings.network["projection_dim"],
        "torch_dtype": "float16",
        # The layout is that of a whole CLIP model; no text is ever read, so its tower is as small as it can be.
        "text_config": {
            "model_type": "clip_text_model", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "projection_dim": settings.network["projection_dim"],
        },
        "vision_config": {"model_type": "clip_vision_model", "hidden_act": "quick_gelu", **settings.network},
    }  # fmt: skip


def _processor(view: Preprocessing) -> dict[str, Any]:
    return {
        "crop_size": view.crop, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": list(view.mean), "image_std": list(view.std),
        "resample": 3, "size": view.size,
    }  # fmt: skip


def _write(network: SafetyNetwork, settings: Settings, target: Path) -> None:
    """The folder, replaced as a whole; tensor names are those of published checkers."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    nested = "vision_model."
    state = {
        (nested + name if name.startswith(nested) else name): tensor.detach().half().contiguous()
        for name, tensor in network.state_dict().items()
    }
    save_file(state, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "model.safetensors").chmod(0o644)  # safetensors' writer leaves it to the owner alone
    for name, content in (
        ("config.json", _configuration(settings)),
        ("preprocessor_config.json", _processor(preprocessing(settings))),
    ):
        (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if (target / "README.md").exists():
        shutil.copy(target / "README.md", partial / "README.md")
    size = sum(path.stat().st_size for path in partial.iterdir())
    if size > LARGEST:
        raise ValueError(f"{partial}: {size} bytes, at most {LARGEST} are allowed")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
