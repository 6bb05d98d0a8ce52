"""Token merging on ONNX Runtime: what the host says by numpy is what torch says, and so are the pictures."""

from __future__ import annotations

import re

import numpy as np
import pytest

for package in ("onnxruntime", "torch", "onnx", "onnxscript"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'intarsia[cpu,export]'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import intarsia
from intarsia.backends.onnx.backend import OnnxBackend
from intarsia.backends.onnx.merging import find_levels, level_tokens, map_sizes
from intarsia.engine.parts import model_files
from intarsia.engine.resolve import resolve
from intarsia.execution import Execution
from intarsia.export.networks import attending
from intarsia.models.merging import Merging, _split, draw_choices, find_regions
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from tools.train_tiny.scenes import MEASURING, draw_scene

SIZE = 256
ALIKE = 45.0


@pytest.fixture(scope="module")
def engines():
    with intarsia.Engine("torch", "cpu") as torch, intarsia.Engine("onnx", "cpu") as onnx:
        yield torch, onnx


@pytest.fixture(scope="module")
def ask():
    scene = draw_scene("measure", 3, SIZE, MEASURING)

    def make(**fields):
        defaults = {"prompt": scene.caption, "steps": 4, "strength": 1.0, "guidance_scale": 4.0, "seed": 11}
        given = {"init_image": scene.background, "mask_image": scene.mask, "token_merging": 0.5}
        return intarsia.InpaintRequest(**{**defaults, **given, "width": SIZE, "height": SIZE, **fields})

    return make


def drawn(result):
    return np.asarray(result.generated[0], np.float64)


def psnr(one, other):
    return 10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9))


VARIED = [
    {},
    {"token_merging": 0.75, "scheduler": "EulerAncestralDiscreteScheduler"},
    {"token_merging": 0.2, "guidance_scale": 1.0},
    {"width": 200, "height": 328, "seed": 5},
]


@pytest.mark.parametrize("fields", VARIED, ids=[str(sorted(fields)) for fields in VARIED])
def test_the_same_picture_as_torch_at_the_same_ratio(engines, ask, fields):
    one, other = (engine.run(ask(**fields)) for engine in engines)
    alike = psnr(drawn(one), drawn(other))
    assert alike >= ALIKE
    assert one.warnings == other.warnings
    # far nearer to torch's than to the picture without merging, which itself is not far
    plain = engines[1].run(ask(**{**fields, "token_merging": 0}))
    assert alike > psnr(drawn(other), drawn(plain)) + 6, f"{alike:.1f} dB"


def test_a_picture_that_merges_does_not_depend_on_its_company(engines, ask):
    requests = [ask(seed=seed, token_merging=ratio) for seed, ratio in ((1, 0.5), (2, 0.5), (3, 0.0), (4, 0.3))]
    alone = [engines[1].run(request) for request in requests]
    together = [ticket.result() for ticket in [engines[1].submit(request) for request in requests]]
    for one, other in zip(alone, together, strict=True):
        assert one.generated[0].tobytes() == other.generated[0].tobytes()


def test_what_cannot_be_merged_is_said(engines, ask, monkeypatch):
    whole = np.full((SIZE, SIZE), 255, np.uint8)
    for engine in engines:
        result = engine.run(ask(mask_image=whole, steps=1))
        assert "token merging: the mask leaves too little to merge; made without it" in result.warnings
    request = resolve(ask(steps=1), engines[1].registry)
    session = OnnxBackend("cpu", Execution()).open(model_files(request.entry, request.parts))
    sentences = {
        None: r"levels 1 and reuse 1 asked for, .* graphs have none; made without it \(intarsia export --again",
        (2, 1): "levels 1 and reuse 1 asked for, the model's graphs have levels 2 and reuse 1; made without it",
    }
    for have, sentence in sentences.items():
        facts = {**session.facts, "merging": have and dict(zip(("levels", "reuse"), have, strict=True))}
        monkeypatch.setattr(session, "facts", facts)
        conditioning, warnings = session.encode(request.inputs)
        assert not conditioning.levels
        assert len(warnings) == 1
        assert re.search(sentence, warnings[0])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3), st.floats(0.01, 0.75), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_the_hosts_share_is_that_of_the_torch_backend(height, width, level, ratio, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.float32)
    top, left = rng.integers(height), rng.integers(width)
    mask[top : top + 1 + rng.integers(height), left : left + 1 + rng.integers(width)] = 1
    sizes = map_sizes([level], height, width)
    regions = find_regions(Merging(ratio), sizes, torch.from_numpy(mask))
    levels = find_levels(ratio, sizes, mask)
    assert [each.merged for each in levels] == [each.merged for each in regions]
    noise = rng.standard_normal((4, height, width)).astype(np.float32)
    told = level_tokens(levels, noise, 3)
    if not regions:
        assert not told
        return
    (region,), (choice,) = regions, draw_choices(noise, 3, regions)
    np.testing.assert_array_equal(levels[0].protected, region.protected.numpy())
    assert len(told["first_0"]) == region.merged
    for row in range(3):
        sources, destinations = expected(region, choice[row].numpy())
        np.testing.assert_array_equal(told["sources_0"][row + 1], sources)
        np.testing.assert_array_equal(told["destinations_0"][row + 1], destinations)
    every = np.concatenate([told["sources_0"][1], told["destinations_0"][1], told["kept_0"]])
    assert sorted(every) == list(range(region.height * region.width))
    assert len(told["first_0"]) + len(told["rest_0"]) == told["sources_0"].shape[1]


def expected(region, choice):
    """Sources and destinations that the torch backend has, without those that it protects."""
    found = _split(torch.from_numpy(choice)[None], region.height, region.width)
    return [each[0][~region.protected[each[0]]].numpy() for each in found]


def test_sizes_of_feature_maps_are_the_networks():
    config = UNetConfig(block_out_channels=(32, 32, 32, 32), down_attention=(False, True, True, False))
    with torch.device("meta"):
        unet = UNet(config)
    for size in ((64, 64), (9, 33), (1, 2), (40, 7)):
        assert map_sizes(attending(unet), *size) == unet.attention_sizes(*size)
