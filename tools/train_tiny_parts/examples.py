"""Examples: scenes drawn, changed and encoded as the packaged autoencoder does, kept in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F

from tools.train_tiny.latents import Latents, to_tensors
from tools.train_tiny.scenes import Mixture, Scene, draw_scene
from tools.train_tiny.settings import REPOSITORY

MODEL = REPOSITORY / "intarsia" / "assets" / "intarsia-tiny"
SCALE = float(json.loads((MODEL / "vae" / "config.json").read_text(encoding="utf-8"))["scaling_factor"])
CHUNK = 16
FIRST = 500_000  # the packaged model was trained on the scenes of the split "train" up to 12,000


def encoded(pictures: torch.Tensor) -> np.ndarray:
    """Scaled latents of images in −1…1, float16 [N, 4, h, w]: what the packaged encoder gives, in far less time.

    That encoder is average pooling and stays so (tools/train_tiny/autoencoder.py): the mean color of 8×8 pixels, and
    the mean brightness of 24×24, with black beyond the edges.
    """
    colours = F.avg_pool2d(pictures, 8)
    bright = F.avg_pool2d((colours.mean(1, keepdim=True) + 1) / 2, 3, stride=1, padding=1)
    return (torch.cat([colours, 2 * bright - 1], 1) * SCALE).half().numpy()


def pictures_of(pictures: Iterable[np.ndarray]) -> torch.Tensor:
    """uint8 images as one tensor [N, 3, S, S] in −1…1."""
    return torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2) / 127.5 - 1


def plain_truth(scene: Scene) -> np.ndarray:
    """The scene's own image."""
    return scene.picture


def surroundings(scene: Scene) -> np.ndarray:
    """The scene's image without the shape that its caption names."""
    return scene.background


def everything(scene: Scene) -> bool:
    """Every scene is kept."""
    return True


def draw(
    count: int,
    size: int,
    mixture: Mixture,
    truth: Callable[[Scene], np.ndarray] = plain_truth,
    keep: Callable[[Scene], bool] = everything,
) -> Latents:
    """Latents of those that are kept of the first `count` scenes of these parts' own range, with `truth` as image."""
    shards: dict[str, list[np.ndarray]] = {"truth": [], "masked": [], "mask": []}
    captions: list[str] = []
    named: list[bool] = []
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        drawn = [draw_scene("train", FIRST + index, size, mixture) for index in range(start, stop)]
        scenes = [scene for scene in drawn if keep(scene)]
        if not scenes:
            continue
        _, hidden, mask = to_tensors(scenes)
        shards["truth"].append(encoded(pictures_of(truth(scene) for scene in scenes)))
        shards["masked"].append(encoded(hidden))
        shards["mask"].append(F.interpolate(mask, size=size // 8)[:, 0].numpy() > 0.5)
        captions += [scene.caption for scene in scenes]
        named += [scene.shape is not None for scene in scenes]
    joined = {name: [np.concatenate(arrays)] for name, arrays in shards.items()}
    return Latents(joined["truth"], joined["masked"], joined["mask"], captions, np.asarray(named))
