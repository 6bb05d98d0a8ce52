"""`python -m tools.train_tiny_parts.measure PART…`: what packaged parts do to images of fixed scenes."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

import intarsia
from tools.train_tiny.judge import judge
from tools.train_tiny.measure import COUNT as FEW_STEPS_COUNT
from tools.train_tiny.measure import measure_empty, measure_named
from tools.train_tiny.painters import Painter, Sampling, Task, diffusers_painter, parallel_painter
from tools.train_tiny.scenes import MEASURING, Scene, draw_scene
from tools.train_tiny_parts import adapters
from tools.train_tiny_parts.effects import EFFECTS, share
from tools.train_tiny_parts.examples import MODEL
from tools.train_tiny_parts.export import ASSETS
from tools.train_tiny_parts.packaged import whole
from tools.train_tiny_parts.references import reference
from tools.train_tiny_parts.settings import HERE, EmbeddingSettings, Settings, read_settings

RESULTS = HERE / "results.json"
COUNT, SIZE = 24, 256
BASE_COUNT = 100
LARGE, LARGE_COUNT = 512, 40  # side and scenes of further rows of intarsia-tiny-lcm
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


def measure_embedding(settings: EmbeddingSettings, count: int) -> dict[str, Any]:
    """How often a prompt with the embedding paints what it means, and how often one with the word alone does."""
    scenes = measured_scenes(count)
    file = ASSETS / "embeddings" / f"{settings.token}.safetensors"

    def change(pipeline: Any) -> None:
        pipeline.load_textual_inversion(str(file), token=settings.token)

    painter = diffusers_painter(MODEL, SAMPLING, change=change)
    found = {}
    for asked, word in (("by the embedding", settings.token), ("by the word", settings.effect)):
        images = painted(painter, scenes, [f"a {word}"] * count)
        verdicts = [judge(image, scene.background, scene.mask) for image, scene in zip(images, scenes, strict=True)]
        right = [verdict.colour == "yellow" and verdict.shape == settings.shape for verdict in verdicts]
        found[asked] = float(np.mean(right))
    return {"scenes": count, "yellow circle": found}


def measure_ip_adapter(name: str, count: int) -> dict[str, Any]:
    """How often color and shape of a reference image are painted where nothing is asked for in words."""
    scenes = measured_scenes(count)
    asked = [measured_scenes(count)[place - 1] for place in range(count)]  # another scene's color and shape
    rng = np.random.default_rng(FIRST)
    seen = [reference(rng, str(scene.colour), str(scene.shape), 224) for scene in asked]
    images = {scale: _with_references(name, scenes, seen, scale) for scale in (0.0, 1.0)}
    verdicts = {
        scale: [judge(image, scene.background, scene.mask) for image, scene in zip(found, scenes, strict=True)]
        for scale, found in images.items()
    }
    colours, shapes = {}, {}
    for scale, own in verdicts.items():
        pairs = list(zip(own, asked, strict=True))
        colours[str(scale)] = float(np.mean([verdict.colour == scene.colour for verdict, scene in pairs]))
        shapes[str(scale)] = float(np.mean([verdict.shape == scene.shape for verdict, scene in pairs]))
    return {"scenes": count, "same colour": colours, "same shape": shapes}


def _with_references(name: str, scenes: list[Scene], seen: list[np.ndarray], scale: float) -> list[np.ndarray]:
    """Images by this repository's engine, whose IP adapters are held against diffusers' by its tests."""
    images = []
    with intarsia.Engine("torch", "cpu") as engine:
        for place, (scene, picture) in enumerate(zip(scenes, seen, strict=True)):
            request = intarsia.InpaintRequest(
                prompt="", init_image=scene.background, mask_image=scene.mask, width=SIZE, height=SIZE, strength=1.0,
                steps=SAMPLING.steps, guidance_scale=SAMPLING.guidance, clip_skip=SAMPLING.clip_skip, seed=3000 + place,
                scheduler="DPMSolverMultistepScheduler", karras_sigmas=True,
                ip_adapter={"id": name, "image": picture, "scale": scale},
            )  # fmt: skip
            images.append(np.asarray(engine.run(request).generated[0]))
    return images


def measure_few_steps(model: str, sampling: Sampling, size: int, count: int) -> dict[str, Any]:
    """One row of intarsia-tiny-lcm's card."""
    with tempfile.TemporaryDirectory() as folder:
        painter = parallel_painter(whole(ASSETS / model, Path(folder)), sampling, 1)
        named = measure_named(painter, size, count, bare=sampling.strength < 1)
        empty = measure_empty(painter, size, count // 4) if sampling.strength == 1 else None
    return {"model": model, "sampling": asdict(sampling), "named": named, "empty": empty}


def measure_base(count: int) -> dict[str, Any]:
    """Asked color and shape of intarsia-tiny-base, beside those of intarsia-tiny on the same scenes."""
    scenes = measured_scenes(count)
    found = {}
    with intarsia.Engine("torch", "cpu") as engine:
        for model in ("intarsia-tiny", "intarsia-tiny-base"):
            verdicts = []
            for place, scene in enumerate(scenes):
                request = intarsia.InpaintRequest(
                    prompt=scene.caption, init_image=scene.background, mask_image=scene.mask, width=SIZE, height=SIZE,
                    strength=1.0, steps=SAMPLING.steps, guidance_scale=SAMPLING.guidance, clip_skip=SAMPLING.clip_skip,
                    seed=3000 + place, scheduler="DPMSolverMultistepScheduler", karras_sigmas=True, model=model,
                )  # fmt: skip
                image = np.asarray(engine.run(request).generated[0])
                verdicts.append((judge(image, scene.background, scene.mask), scene))
            colour = float(np.mean([verdict.colour == scene.colour for verdict, scene in verdicts]))
            shape = float(np.mean([verdict.shape == scene.shape for verdict, scene in verdicts]))
            found[model] = {"asked color": colour, "asked shape": shape}
    return {"scenes": count, "models": found}


def few_steps_rows() -> list[tuple[str, Sampling, int]]:
    """Model, sampling and size of the rows: as a realtime request has it by default, and from noise alone."""
    guided = Sampling(steps=8, guidance=7.5, strength=0.7)
    few = Sampling(steps=4, guidance=1.0, scheduler="LCM")
    part = replace(few, strength=0.7)
    own, base = "intarsia-tiny-lcm", "intarsia-tiny"
    return [
        (base, guided, 256),
        (base, part, 256),
        (own, part, 256),
        (base, few, 256),
        (own, few, 256),
    ]


def measure(part: str, settings: Settings, count: int) -> dict[str, Any]:
    """One part's measurement."""
    if part in settings.adapters:
        return measure_adapter(part, settings.adapters[part].effect, count)
    if part == settings.embedding.token:
        return measure_embedding(settings.embedding, count)
    return measure_ip_adapter(part, count)


def main() -> None:
    """Measure the parts named, and keep the results."""
    settings = read_settings()
    names = [*settings.adapters, settings.embedding.token, settings.ip_adapter.name]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=[*names, "lcm", "base"])
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"parts": {}}
    results |= {"scenes": COUNT, "sampling": asdict(SAMPLING)}
    for part in asked.parts:
        if part == "lcm":
            results["few steps"] = []
            for model, sampling, size in few_steps_rows():
                results["few steps"].append(measure_few_steps(model, sampling, size, FEW_STEPS_COUNT))
                print(json.dumps(results["few steps"][-1], ensure_ascii=False), flush=True)
            results["few steps, large"] = [
                measure_few_steps(model, sampling, LARGE, LARGE_COUNT)
                for model, sampling, _ in few_steps_rows()
                if model == "intarsia-tiny-lcm"
            ]
        elif part == "base":
            results["base"] = measure_base(BASE_COUNT)
            print(json.dumps(results["base"]), flush=True)
        else:
            results["parts"][part] = measure(part, settings, COUNT)
            print(part, json.dumps(results["parts"][part]), flush=True)
        RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
