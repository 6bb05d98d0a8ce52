"""`python -m tools.train_tiny_parts.measure`: what each packaged part does to images of 24 fixed scenes."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from tools.train_tiny.judge import judge
from tools.train_tiny.painters import Painter, Sampling, Task, diffusers_painter
from tools.train_tiny.palette import COLOURS
from tools.train_tiny.scenes import MEASURING, Scene, draw_scene
from tools.train_tiny_parts import adapters
from tools.train_tiny_parts.effects import EFFECTS, TEAL, share
from tools.train_tiny_parts.examples import MODEL
from tools.train_tiny_parts.export import ASSETS
from tools.train_tiny_parts.settings import HERE, read_settings

RESULTS = HERE / "results.json"
COUNT, SIZE = 24, 256
FIRST = 20_000  # scenes of the measuring range that no other measurement has
SAMPLING = Sampling(steps=12, guidance=4.0)
STRENGTHS = (0.0, 0.5, 1.0)
BATCH = 4


def measured_scenes(count: int = COUNT) -> list[Scene]:
    """The fixed scenes, each with a named shape."""
    return [draw_scene("measure", FIRST + index, SIZE, MEASURING) for index in range(count)]


def painted(painter: Painter, scenes: list[Scene], prompts: list[str]) -> list[np.ndarray]:
    """One image of each scene, from noise of its own."""
    tasks = [
        Task(scene.background, scene.mask, prompt, 3000 + place)
        for place, (scene, prompt) in enumerate(zip(scenes, prompts, strict=True))
    ]
    return [image for start in range(0, len(tasks), BATCH) for image in painter(tasks[start : start + BATCH])]


def _with_adapter(file: Path, strength: float, pipeline: Any) -> None:
    adapters.apply(pipeline.unet, load_file(file), strength)


def measure_adapter(name: str, effect: str, count: int) -> dict[str, Any]:
    """How much of its effect a LoRA or LoHa brings at three strengths, and what shapes are painted at full strength."""
    scenes = measured_scenes(count)
    prompts = [scene.caption for scene in scenes]
    shares, shapes = {}, 0.0
    for strength in STRENGTHS:
        change = partial(_with_adapter, ASSETS / "loras" / f"{name}.safetensors", strength)
        images = painted(diffusers_painter(MODEL, SAMPLING, change=change), scenes, prompts)
        found = [share(image, scene, EFFECTS[effect]) for image, scene in zip(images, scenes, strict=True)]
        shares[str(strength)] = float(np.median(found))
        verdicts = [judge(image, scene.background, scene.mask) for image, scene in zip(images, scenes, strict=True)]
        shapes = float(np.mean([verdict.shape == scene.shape for verdict, scene in zip(verdicts, scenes, strict=True)]))
    return {"scenes": count, "share of the effect": shares, "asked shape": shapes}


def is_teal(image: np.ndarray, scene: Scene) -> bool:
    """Whether the shape's median color is nearer to teal than to any of the palette's."""
    if scene.coverage is None:
        raise ValueError("scene: names no shape, so that there is no color to measure")
    median = np.median(image[scene.coverage > 0.99], axis=0)
    others = np.asarray(list(COLOURS.values()), np.float32)
    nearest = float(np.sqrt(((others - median) ** 2).sum(1)).min())
    return float(np.sqrt(((TEAL - median) ** 2).sum())) < nearest


def measure_embedding(token: str, count: int) -> dict[str, Any]:
    """How often a shape is teal that is asked for by the embedding, and by the word that the model does not know."""
    scenes = measured_scenes(count)
    file = ASSETS / "embeddings" / f"{token}.safetensors"

    def change(pipeline: Any) -> None:
        pipeline.load_textual_inversion(str(file), token=token)

    painter = diffusers_painter(MODEL, SAMPLING, change=change)
    found = {}
    for asked, word in (("by the embedding", token), ("by the word", "teal")):
        images = painted(painter, scenes, [f"a {word} {scene.shape}" for scene in scenes])
        found[asked] = float(np.mean([is_teal(image, scene) for image, scene in zip(images, scenes, strict=True)]))
    return {"scenes": count, "teal": found}


def main() -> None:
    """Measure the parts named, all unless any is, and keep the results."""
    settings = read_settings()
    names = [*settings.adapters, settings.embedding.token]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=names, choices=names)
    parser.add_argument("--count", type=int, default=COUNT)
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in asked.parts:
        if name in settings.adapters:
            results[name] = measure_adapter(name, settings.adapters[name].effect, asked.count)
        else:
            results[name] = measure_embedding(name, asked.count)
        print(name, json.dumps(results[name]), flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
