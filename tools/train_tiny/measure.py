"""`python -m tools.train_tiny measure`: how well a model paints 200 fixed scenes that it was not trained on."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tools.train_tiny.judge import judge
from tools.train_tiny.painters import Painter, Sampling, Task, parallel_painter
from tools.train_tiny.scenes import MEASURING, Scene, draw_scene

COUNT = 200
NAME = "diffusers' own pipeline, DPM++ 2M Karras, float32, before any paste-back"
EMPTY_FIRST = 10_000  # scenes for the empty prompt: another part of the same seed range


def measure_named(painter: Painter, size: int, count: int = COUNT, *, bare: bool = False) -> dict[str, Any]:
    """Shares of scenes whose painted object has the asked color, the asked shape, and both.

    With `bare` the painter is given the image without the shape: at a strength below 1 it sees what is under the mask.
    """
    scenes = [draw_scene("measure", index, size, MEASURING) for index in range(count)]
    given = [scene.background if bare else scene.picture for scene in scenes]
    tasks = [
        Task(image, scene.mask, scene.caption, 1000 + i)
        for i, (image, scene) in enumerate(zip(given, scenes, strict=True))
    ]
    painted = painter(tasks)
    verdicts = [judge(picture, scene.background, scene.mask) for picture, scene in zip(painted, scenes, strict=True)]
    errors = [_error(picture, scene) for picture, scene in zip(painted, scenes, strict=True)]
    pairs = list(zip(verdicts, scenes, strict=True))
    colours = [found.colour == asked.colour for found, asked in pairs]
    shapes = [found.shape == asked.shape for found, asked in pairs]
    wrong = Counter(
        f"{asked.shape} → {found.shape or 'nothing'}" for found, asked in pairs if found.shape != asked.shape
    )
    return {
        "size": size,
        "scenes": count,
        "colour": float(np.mean(colours)),
        "shape": float(np.mean(shapes)),
        "both": float(np.mean([c and s for c, s in zip(colours, shapes, strict=True)])),
        "nothing painted": sum(found.colour is None for found in verdicts),
        "shapes confused": dict(wrong.most_common()),
        "mean overlap": float(np.mean([found.overlap for found in verdicts])),
        "error": float(np.mean(errors)),
    }


def _error(picture: np.ndarray, scene: Scene) -> float:
    """Mean absolute difference to the scene's own image inside the mask, 0…1."""
    return float(np.abs(picture[scene.mask].astype(np.float32) - scene.picture[scene.mask]).mean() / 255)


def measure_empty(painter: Painter, size: int, count: int = COUNT) -> dict[str, Any]:
    """Mean absolute error inside the mask, 0…1, when the empty prompt asks for the background to go on."""
    mixture = replace(MEASURING, empty=1.0)
    scenes = [draw_scene("measure", EMPTY_FIRST + index, size, mixture) for index in range(count)]
    tasks = [Task(scene.picture, scene.mask, "", 2000 + i) for i, scene in enumerate(scenes)]
    errors = [_error(picture, scene) for picture, scene in zip(painter(tasks), scenes, strict=True)]
    kinds = sorted({scene.kind for scene in scenes})
    by_kind = {
        kind: float(np.mean([e for e, scene in zip(errors, scenes, strict=True) if scene.kind == kind]))
        for kind in kinds
    }
    return {
        "size": size,
        "scenes": count,
        "error": float(np.mean(errors)),
        "median error": float(np.median(errors)),
        "by background": by_kind,
    }


def measure_all(
    painter: Painter, name: str, sizes: tuple[int, ...], count: int = COUNT, sampling: Sampling = Sampling()
) -> dict[str, Any]:
    """Measure a painter, called `name` in the record, at every size; prints and returns the record."""
    record: dict[str, Any] = {"painter": name, "sampling": asdict(sampling), "named": [], "empty": []}
    for size in sizes:
        begun = time.time()
        record["named"].append(measure_named(painter, size, count))
        record["empty"].append(measure_empty(painter, size, count))
        print(json.dumps([record["named"][-1], record["empty"][-1]], ensure_ascii=False))
        print(f"{size}: {time.time() - begun:.0f} s", flush=True)
    return record


def main() -> None:
    """Measure any model folder, with as many scenes as asked for, without recording it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--lcm", type=int, metavar="STEPS", help="LCM without guidance instead of DPM++ 2M Karras")
    asked = parser.parse_args()
    sampling = Sampling(steps=asked.lcm, guidance=1.0, scheduler="LCM") if asked.lcm else Sampling()
    painter = parallel_painter(asked.model, sampling, asked.processes)
    measure_all(painter, NAME, tuple(asked.size), asked.count, sampling)


if __name__ == "__main__":
    main()
