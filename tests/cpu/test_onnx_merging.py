"""Token merging on ONNX Runtime: what the host says by numpy is what torch says, and so are the images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

for package in ("onnxruntime", "torch", "onnx", "onnxscript"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'intarsia[cpu,export]'")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import intarsia
from intarsia.backends.onnx.backend import OnnxBackend
from intarsia.backends.onnx.token_inputs import graph_regions, map_sizes, token_inputs
from intarsia.backends.token_regions import _protected_tokens, draw_choices, find_regions
from intarsia.engine.parts import model_files
from intarsia.engine.resolve import resolve
from intarsia.execution import Execution
from intarsia.export.networks import attending
from intarsia.models.merging import _split
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.token_merging import TokenMerging
from tools.train_tiny.scenes import MEASURING, draw_scene

SIZE = 256
ALIKE = 45.0


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[intarsia.Engine, intarsia.Engine]]:
    with intarsia.Engine("torch", "cpu") as torch, intarsia.Engine("onnx", "cpu") as onnx:
        yield torch, onnx


@pytest.fixture(scope="module")
def ask() -> Callable[..., intarsia.InpaintRequest]:
    scene = draw_scene("measure", 3, SIZE, MEASURING)

    def make(**fields: Any) -> intarsia.InpaintRequest:
        defaults = {"prompt": scene.caption, "steps": 4, "strength": 1.0, "guidance_scale": 4.0, "seed": 11}
        given = {"init_image": scene.background, "mask_image": scene.mask, "token_merging": 0.5}
        return intarsia.InpaintRequest(**{**defaults, **given, "width": SIZE, "height": SIZE, **fields})

    return make


def drawn(result: intarsia.Result) -> np.ndarray:
    return np.asarray(result.generated[0], np.float64)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9))


VARIED = [
    {},
    {"token_merging": 0.75, "scheduler": "EulerAncestralDiscreteScheduler"},
    {"token_merging": 0.2, "guidance_scale": 1.0},
    {"width": 200, "height": 328, "seed": 5},
]


@pytest.mark.every(2)
@pytest.mark.parametrize("fields", VARIED, ids=[str(sorted(fields)) for fields in VARIED])
def test_the_same_image_as_torch_at_the_same_ratio(engines, ask, fields):
    one, other = (engine.run(ask(**fields)) for engine in engines)
    alike = psnr(drawn(one), drawn(other))
    assert alike >= ALIKE
    assert one.warnings == other.warnings
    # far nearer to torch's than to the image without merging, which itself is not far
    plain = engines[1].run(ask(**{**fields, "token_merging": 0}))
    assert alike > psnr(drawn(other), drawn(plain)) + 6, f"{alike:.1f} dB"


def test_an_image_that_merges_does_not_depend_on_what_it_is_batched_with(engines, ask):
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
        assert not conditioning.regions
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
    regions = find_regions(TokenMerging(ratio), sizes, mask)
    noise = rng.standard_normal((4, height, width)).astype(np.float32)
    inputs = token_inputs(graph_regions(TokenMerging(ratio), sizes, mask), noise, 3)
    if not regions:
        assert not inputs
        return
    (region,) = regions
    (choice,) = draw_choices(noise, 3, [region.cells])
    assert len(inputs["first_0"]) == region.merged
    for row in range(3):
        sources, destinations = expected(region, choice[row])
        np.testing.assert_array_equal(inputs["sources_0"][row + 1], sources)
        np.testing.assert_array_equal(inputs["destinations_0"][row + 1], destinations)
    every = np.concatenate([inputs["sources_0"][1], inputs["destinations_0"][1], inputs["kept_0"]])
    assert sorted(every) == list(range(region.height * region.width))
    assert len(inputs["first_0"]) + len(inputs["rest_0"]) == inputs["sources_0"].shape[1]


def test_a_resolution_that_merges_nothing_has_inputs_all_the_same():
    """The graph reads all of its resolutions; one that merges nothing draws nothing."""
    merges, noise = TokenMerging(0.5, levels=2), np.ones((4, 8, 8), np.float32)
    mask = np.zeros((8, 8), np.float32)
    mask[2:5, 2:5] = 1
    sizes = [(8, 8), (4, 4)]
    (region,) = find_regions(merges, sizes, mask)
    merging, other = graph_regions(merges, sizes, mask)
    assert (merging.merged, other.merged, other.protected.any()) == (region.merged, 0, False)
    alone, both = token_inputs([region], noise, 3), token_inputs([merging, other], noise, 3)
    for name, value in alone.items():
        np.testing.assert_array_equal(both[name], value)
    assert (len(both["first_1"]), len(both["rest_1"]), len(both["kept_1"])) == (0, 12, 0)
    assert graph_regions(merges, [(8, 8), (1, 1)], mask) == ()


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_tokens_are_protected_as_max_pooling_says(height, width, masked, level, seed):
    mask = np.random.default_rng(seed).random((height, width)) < masked
    ((rows, columns),) = map_sizes([level], height, width)
    inside = F.adaptive_max_pool2d(torch.from_numpy(mask)[None].float(), (rows, columns))
    near = F.max_pool2d(inside, 3, stride=1, padding=1)[0] > 0.5
    if rows > 1 and columns > 1:
        cells = F.max_pool2d(near[None].float(), 2)[0] > 0.5
        near[: rows // 2 * 2, : columns // 2 * 2] = cells.repeat_interleave(2, 0).repeat_interleave(2, 1)
    np.testing.assert_array_equal(_protected_tokens(mask, rows, columns), near.numpy())


def expected(region: Any, choice: np.ndarray) -> list[np.ndarray]:
    """Sources and destinations that the torch backend has, without those that it protects."""
    split = [tokens[0].numpy() for tokens in _split(torch.from_numpy(choice)[None], region.height, region.width)]
    return [tokens[~region.protected[tokens]] for tokens in split]


def test_sizes_of_feature_maps_are_the_networks():
    config = UNetConfig(block_out_channels=(32, 32, 32, 32), down_attention=(False, True, True, False))
    with torch.device("meta"):
        unet = UNet(config)
    for size in ((64, 64), (9, 33), (1, 2), (40, 7)):
        assert map_sizes(attending(unet), *size) == unet.attention_sizes(*size)
