"""Encoded scenes on disk: drawn and encoded once, in shards, by worker processes of one thread each."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tools.train_tiny import autoencoder
from tools.train_tiny.scenes import Scene, draw_scene
from tools.train_tiny.settings import LatentSettings

CHUNK = 16


@dataclass(frozen=True, eq=False)
class Latents:
    """All encoded scenes of one size."""

    truth: list[np.ndarray]  # shards of float16 [n, 4, h, w], already scaled
    masked: list[np.ndarray]  # likewise, of the image with gray under the mask
    mask: list[np.ndarray]  # bool [n, h, w]
    captions: list[str]
    named: np.ndarray  # bool [N]: the caption names a shape under the mask

    def take(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], np.ndarray]:
        """Truth, masked, mask (float32 arrays), captions and `named` of the scenes at `places`."""
        size = len(self.truth[0])
        pairs = [(int(place) // size, int(place) % size) for place in places]
        arrays = [
            np.stack([shards[s][i] for s, i in pairs]).astype(np.float32)
            for shards in (self.truth, self.masked, self.mask)
        ]
        return arrays[0], arrays[1], arrays[2][:, None], [self.captions[p] for p in places], self.named[places]


def to_tensors(scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images in −1…1, the same with zero (gray) under the mask, and masks, each [N, C, S, S] float32."""
    picture = torch.from_numpy(np.stack([scene.picture for scene in scenes])).permute(0, 3, 1, 2) / 127.5 - 1
    mask = torch.from_numpy(np.stack([scene.mask for scene in scenes]))[:, None].float()
    return picture, picture * (mask < 0.5), mask


def _write_shard(size: int, first: int, count: int, weights: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    os.nice(5)
    saved = torch.load(weights, map_location="cpu")
    model = autoencoder.build().to(memory_format=torch.channels_last)
    model.load_state_dict(saved["model"])
    parts: dict[str, list[np.ndarray]] = {"truth": [], "masked": [], "mask": []}
    captions: list[str] = []
    named: list[bool] = []
    for start in range(first, first + count, CHUNK):
        stop = min(start + CHUNK, first + count)
        scenes = [draw_scene("train", index, size) for index in range(start, stop)]
        picture, hidden, mask = to_tensors(scenes)
        with torch.no_grad():
            for name, image in (("truth", picture), ("masked", hidden)):
                latents = model.encoder(image.contiguous(memory_format=torch.channels_last))
                parts[name].append((latents * saved["scaling_factor"]).half().numpy())
        parts["mask"].append(F.interpolate(mask, size=size // 8)[:, 0].numpy() > 0.5)
        captions += [scene.caption for scene in scenes]
        named += [scene.shape is not None for scene in scenes]
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, arrays in parts.items():
        np.save(partial / f"{name}.npy", np.concatenate(arrays))
    (partial / "captions.json").write_text(json.dumps({"captions": captions, "named": named}))
    os.replace(partial, folder)


def shard_folders(folder: Path, size: int, scenes: int, shard: int) -> list[Path]:
    """Where the shards of one size lie."""
    return [folder / f"latents-{size}-{k:03d}" for k in range(-(-scenes // shard))]


def write(settings: LatentSettings, folder: Path, workers: int) -> None:
    """Draw and encode every scene that is not there yet."""
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = []
        for size, count in ((256, settings.scenes_256), (512, settings.scenes_512)):
            for place, path in enumerate(shard_folders(folder, size, count, settings.shard)):
                if not path.exists():
                    job = (size, place * settings.shard, settings.shard, folder / "autoencoder.pt", path)
                    jobs.append(pool.submit(_write_shard, *job))
        for done, job in enumerate(jobs):
            job.result()
            print(f"latents: shard {done + 1} of {len(jobs)}", flush=True)


def read(folder: Path, size: int, scenes: int, shard: int) -> Latents:
    """Map the shards of one size into memory."""
    folders = shard_folders(folder, size, scenes, shard)
    absent = [path.name for path in folders if not path.exists()]
    if absent:
        raise FileNotFoundError(f"{', '.join(absent)} in {folder}: absent; run the stage 'latents' first")
    texts = [json.loads((path / "captions.json").read_text()) for path in folders]
    arrays = {
        name: [np.load(path / f"{name}.npy", mmap_mode="r") for path in folders] for name in ("truth", "masked", "mask")
    }
    return Latents(
        arrays["truth"],
        arrays["masked"],
        arrays["mask"],
        [caption for text in texts for caption in text["captions"]],
        np.asarray([named for text in texts for named in text["named"]]),
    )
