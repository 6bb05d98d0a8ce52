"""The packaged model of few steps: what a realtime request runs, and how well it paints what is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the judge needs scipy")

import intarsia
from intarsia.endpoints.reading import read
from tools.train_tiny.judge import judge
from tools.train_tiny.scenes import MEASURING, Scene, draw_scene

SIZE = 256
FIRST = 40_000  # scenes of the measuring range that neither the cards nor the sheets have


@pytest.fixture(scope="module", params=["torch", "onnx"])
def engine(request: pytest.FixtureRequest) -> Iterator[intarsia.Engine]:
    pytest.importorskip({"torch": "torch", "onnx": "onnxruntime"}[request.param], reason="a backend to run")
    with intarsia.Engine(request.param, "cpu") as opened:
        yield opened


def judged(engine: intarsia.Engine, scene: Scene, **fields: Any) -> tuple[bool, bool]:
    """Whether the image has the asked color, and the asked shape."""
    request = intarsia.InpaintRequest(
        model="intarsia-tiny-lcm", prompt=scene.caption, init_image=scene.background, mask_image=scene.mask,
        width=SIZE, height=SIZE, guidance_scale=1.0, clip_skip=2, **fields,
    )  # fmt: skip
    found = judge(np.asarray(engine.run(request).images[0]), scene.background, scene.mask)
    return found.colour == scene.colour, found.shape == scene.shape


def test_a_realtime_request_runs_four_steps_of_lcm_without_guidance() -> None:
    body = {
        "prompt": "a red circle",
        "init_image": "https://example.com/a.png",
        "mask_image": "https://example.com/b.png",
    }
    request = read(body, "realtime", intarsia.Registry()).request
    assert request.model == "intarsia-tiny-lcm"
    assert (request.scheduler, request.steps, request.guidance_scale) == ("LCMScheduler", 4, 1)


@pytest.mark.every(2)
@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_color_and_shape_are_right_in_most_of_a_few_scenes(engine: intarsia.Engine, strength: float) -> None:
    scenes = [draw_scene("measure", FIRST + index, SIZE, MEASURING) for index in range(5)]
    verdicts = [judged(engine, scene, strength=strength, seed=9) for scene in scenes]
    assert sum(color for color, _ in verdicts) >= 4
    assert sum(shape for _, shape in verdicts) >= 3


@pytest.mark.slow
def test_color_and_shape_are_as_good_as_the_card_says(engine: intarsia.Engine) -> None:
    """The card's bar, 95 % and 80 %, on scenes that it does not have."""
    scenes = [draw_scene("measure", FIRST + index, SIZE, MEASURING) for index in range(60)]
    verdicts = [judged(engine, scene, strength=1.0, seed=index) for index, scene in enumerate(scenes)]
    assert np.mean([color for color, _ in verdicts]) >= 0.95
    assert np.mean([shape for _, shape in verdicts]) >= 0.80
