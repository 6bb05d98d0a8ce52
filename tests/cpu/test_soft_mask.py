"""Soft masks in the loop: the formula of diffusers' differential pipelines, both kinds of network, both backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="makes its models with diffusers: pip install 'intarsia[torch]'")
pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime: pip install 'intarsia[cpu]'")

import torch
from PIL import Image, ImageFilter

import intarsia
from intarsia.backends.protocol import Step
from intarsia.backends.torch.backend import TorchBackend
from intarsia.engine.noise import noise as starting_noise
from intarsia.engine.open_models import OpenModels
from intarsia.engine.resolve import resolve
from intarsia.engine.sampling import table_of
from intarsia.execution import Execution
from intarsia.registry.registry import Registry
from tests.noise_request import noise_request
from tests.random_model import write_model, write_registry
from tools.train_tiny.scenes import MEASURING, draw_scene

SIZE = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    inpainting = write_model(folder / "nine", 9, "tiny")
    plain = write_model(folder / "four", 4, "tiny", seed=1)
    return write_registry(folder / "weights.toml", nine=(inpainting, "sd15-inpaint"), four=(plain, "sd15"))


def gradient(size: int = SIZE) -> np.ndarray:
    """A mask of all levels."""
    rows, columns = np.mgrid[:size, :size]
    return np.asarray((columns * 2.9 + rows * 0.83 + 12).clip(0, 255), np.uint8)


def opened(models: Path, **fields: Any) -> tuple[Any, Any]:
    """A request's session on torch, and what it resolves to."""
    request = noise_request(SIZE, slice(0, SIZE), slice(0, SIZE), mask_image=gradient(), soft_mask=True, **fields)
    resolved = resolve(request, Registry(models))
    session = OpenModels(TorchBackend("cpu", Execution())).session(resolved, ())
    return session, resolved


@pytest.mark.parametrize("model", ["four", "nine"])
@pytest.mark.parametrize(("scheduler", "strength"), [("euler", 1.0), ("ddim", 0.7), ("UniPCMultistepScheduler", 0.8)])
def test_each_pixel_is_repainted_from_the_step_of_its_level(models, model, scheduler, strength):
    """The formula of diffusers' community pipelines of Levin & Fried: ``map > i / n`` is the original, noised."""
    session, resolved = opened(models, model=model, scheduler=scheduler, steps=6, strength=strength)
    table, levels = table_of(resolved.plan), resolved.inputs.soft_mask
    count, start = len(table), starting_noise(5, resolved.plan.latent_shape)
    conditioning, _ = session.encode(resolved.inputs)
    assert len(np.unique(levels)) > 30

    # the same lane, of whose solver nothing is overwritten: done here, by the formula
    everything = replace(conditioning, mask=torch.ones_like(conditioning.mask))
    soft, bare = session.start(conditioning, table, start), session.start(everything, table, start)
    image, noise, kept_map = conditioning.image_latents, torch.from_numpy(start), torch.from_numpy(1 - levels)
    for row in range(count):
        session.advance([Step(soft, row)])
        session.advance([Step(bare, row)])
        position = row + 1
        if position < count:
            original = float(table.known_image[row]) * image + float(table.known_noise[row]) * noise
            with torch.inference_mode():
                bare.buffer[0] = torch.where(kept_map > position / count, original, bare.buffer[0])
        torch.testing.assert_close(soft.buffer[0], bare.buffer[0], atol=1e-5, rtol=1e-5)


def test_levels_of_a_hard_mask_are_the_hard_mask(models):
    with intarsia.Engine("torch", "cpu", models) as engine:
        for model in ("four", "nine"):
            fields = {"model": model, "steps": 4, "strength": 1.0, "mask_blur": 0}
            cells = noise_request(SIZE, slice(16, 40), slice(8, 48), **fields)  # whole cells: no level between
            hard = engine.run(cells)
            soft = engine.run(cells.model_copy(update={"soft_mask": True}))
            assert hard.plan.sha256 != soft.plan.sha256
            assert "mask_image has no grays" in soft.warnings[0]
            if (
                model == "four"
            ):  # after the last row the loop of a hard mask overwrites what is outside; so does this one
                np.testing.assert_array_equal(np.asarray(hard.images[0]), np.asarray(soft.images[0]))


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[intarsia.Engine, intarsia.Engine]]:
    with intarsia.Engine("torch", "cpu") as one, intarsia.Engine("onnx", "cpu") as other:
        yield one, other


def test_both_backends_agree_and_gray_changes_less(engines):
    scene = draw_scene("measure", 3, 128, MEASURING)
    soft = np.asarray(Image.fromarray(scene.mask).convert("L").filter(ImageFilter.GaussianBlur(8)))
    fields = {
        "prompt": scene.caption, "init_image": scene.background, "mask_image": soft, "width": 128, "height": 128,
        "steps": 8, "strength": 1.0, "guidance_scale": 4.0, "seed": 11,
    }  # fmt: skip
    request = intarsia.InpaintRequest(**fields, soft_mask=True)
    one, other = (np.asarray(engine.run(request).generated[0], np.float64) for engine in engines)
    assert 10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9)) >= 45  # as for hard masks

    hard = np.asarray(engines[0].run(intarsia.InpaintRequest(**fields)).generated[0], np.float64)
    assert np.abs(hard - one).mean() > 0.5
    change = np.abs(one - scene.background).mean(axis=2)
    white, gray, black = soft > 240, (soft > 20) & (soft < 110), soft < 8
    assert change[white].mean() > change[gray].mean() > change[black].mean()
