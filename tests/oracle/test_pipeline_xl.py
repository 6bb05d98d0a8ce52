"""SDXL's session against diffusers' own SDXL inpainting pipeline: sizes that are not square, empty prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="the oracle needs diffusers: pip install 'intarsia[oracle]'")

import torch

import intarsia
from tests.random_model import write_registry, write_xl_model
from tests.xl_reference import HEIGHT, ORDERS, WIDTH, psnr, reference, request


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return folder, write_registry(folder / "weights.toml", xl=(write_xl_model(folder / "xl"), "sdxl"))


@pytest.fixture(scope="module")
def wanted(models: tuple[Path, Path]) -> dict[Any, np.ndarray]:
    """Images of diffusers by prompt and negative prompt."""
    pairs = {(prompt, theirs) for order in ORDERS.values() for prompt, _, theirs in order}
    return {pair: reference(models[0] / "xl", *pair) for pair in sorted(pairs, key=str)}


def test_the_cases_differ(wanted):
    images = list(wanted.values())
    assert all(image.std() > 5 for image in images)
    assert all(np.abs(one - other).mean() > 0.5 for i, one in enumerate(images) for other in images[:i])


@pytest.mark.parametrize("order", ORDERS)
def test_same_image_as_diffusers_whatever_was_encoded_before(models, wanted, order):
    with intarsia.Engine("torch", "cpu", models[1]) as engine:
        for prompt, negative, theirs in ORDERS[order]:
            result = engine.run(request("xl", prompt=prompt, negative_prompt=negative, guidance_scale=4.0))
            assert psnr(result, wanted[prompt, theirs]) > 50, (prompt, negative)


def test_the_sizes_that_the_network_is_given(models, monkeypatch):
    from intarsia.models.unet import UNet

    seen = []
    embed = UNet.embed
    monkeypatch.setattr(UNet, "embed", lambda self, *given: (seen.append(given[2]), embed(self, *given))[1])
    with intarsia.Engine("torch", "cpu", models[1]) as engine:
        engine.run(request("xl", prompt="ab", steps=1))
    expected = torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]], dtype=torch.float32)
    assert seen
    assert all(torch.equal(sizes, expected) for sizes in seen)
