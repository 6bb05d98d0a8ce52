"""The packaged LoRAs and IP adapter through the engine: each changes images in the direction that its card says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("scipy", reason="the training tools need scipy")

import intarsia
from tools.train_tiny.judge import judge
from tools.train_tiny.scenes import MEASURING, Scene, draw_scene
from tools.train_tiny_parts.effects import EFFECTS, share
from tools.train_tiny_parts.references import reference

SIZE = 256
FIRST = 30_000  # scenes of the measuring range that neither the cards nor the sheets have


@pytest.fixture(scope="module")
def engine() -> Iterator[intarsia.Engine]:
    with intarsia.Engine("torch", "cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene("measure", FIRST + index, SIZE, MEASURING) for index in range(4)]


def painted(engine: intarsia.Engine, scene: Scene, **fields: Any) -> np.ndarray:
    """What the network draws in four steps without guidance."""
    asked = {"prompt": scene.caption, "seed": 5, **fields}
    request = intarsia.InpaintRequest(
        init_image=scene.background, mask_image=scene.mask, width=SIZE, height=SIZE, strength=1.0, steps=4,
        guidance_scale=1.0, scheduler="LCMScheduler", clip_skip=2, **asked,
    )  # fmt: skip
    return np.asarray(engine.run(request).generated[0])


@pytest.mark.every(3)
@pytest.mark.parametrize("name", ["stripes", "pastel", "shade"])
def test_a_lora_brings_its_effect_and_half_of_it_brings_less(
    engine: intarsia.Engine, scenes: list[Scene], name: str
) -> None:
    shares = []
    for strength in (0.0, 0.5, 1.0):
        loras = [{"id": name, "strength": strength}]
        found = [share(painted(engine, scene, loras=loras), scene, EFFECTS[name]) for scene in scenes]
        shares.append(float(np.median(found)))
    assert shares[0] < 0.2
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.35  # without guidance, which the cards' images have, it is weaker than there


@pytest.mark.every(2)
@pytest.mark.parametrize(("color", "shape"), [("purple", "star"), ("yellow", "ring")])
def test_the_ip_adapter_paints_the_color_of_its_image_without_words(
    engine: intarsia.Engine, scenes: list[Scene], color: str, shape: str
) -> None:
    image = reference(np.random.default_rng(1), color, shape, 128)
    found = {}
    for scale in (0.0, 1.0):
        shown = {"id": "tiny-look", "image": image, "scale": scale}
        drawn = [painted(engine, scene, prompt="", ip_adapter=shown) for scene in scenes]
        found[scale] = [
            judge(made, scene.background, scene.mask).colour for made, scene in zip(drawn, scenes, strict=True)
        ]
    assert color not in found[0.0]
    assert found[1.0].count(color) >= 3
