"""Guided branches are one sample until the first cross-attention: what is computed once, and that nothing else changes.

The oracle is the same network with a sample for each half, which is what diffusers and SDXL's branches have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

import intarsia
from intarsia.backends.protocol import Step
from intarsia.backends.token_regions import draw_choices, find_regions
from intarsia.backends.torch.captured_stepper import CapturedStepper, Limits
from intarsia.backends.torch.eager_stepper import EagerStepper
from intarsia.backends.torch.regions import MergingVariant, level_mergings, upload_regions
from intarsia.backends.torch.state import Conditioning, State
from intarsia.backends.torch.static_batch import Network
from intarsia.models.attention import CrossAttention
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.schedulers import table
from intarsia.token_merging import TokenMerging
from tests.cpu.fake_capturer import FakeCapturer
from tests.noise_request import noise_request

CPU = torch.device("cpu")
SMALL = UNetConfig(
    in_channels=9,
    block_out_channels=(16, 32),
    down_attention=(True, True),
    up_attention=(True, True),
    layers_per_block=(2, 1),
    transformer_layers=(2, 1),
    heads=(2, 4),
    cross_attention_dim=(12, 12),
    norm_num_groups=8,
    time_embedding_dim=32,
)
DOWN, MIDDLE = "down_blocks.0.attentions.0.transformer_blocks.0.", "mid_block.attentions.0.transformer_blocks.0."
RESNETS = ("norm1", "norm2", "conv2")  # the first convolution is called by its weights, without its bias
KINDS = {
    "attention first": SMALL,
    "4 channels": replace(SMALL, in_channels=4),
    "attention lower": replace(SMALL, down_attention=(False, True), up_attention=(True, False)),
    "attention in the middle": replace(SMALL, down_attention=(False, False), up_attention=(False, True)),
    "attention on the way up": replace(SMALL, down_attention=(False, False), mid_block=False),
    "attention without transformers": replace(SMALL, transformer_layers=(0, 1)),
}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def network(config: UNetConfig, dtype: torch.dtype = torch.float32) -> UNet:
    """Weights that keep the signal's size and leave no layer, and no bias, without an effect."""
    unet, generator = UNet(config), torch.Generator().manual_seed(3)
    for name, parameter in unet.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
    return unet.to(dtype).eval().to(memory_format=torch.channels_last)


def given(
    unet: UNet, lanes: int, size: tuple[int, int] = (12, 10), image: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A sample for each lane, a timestep of its own, and two prompts."""
    generator, dtype = torch.Generator().manual_seed(1), unet.conv_in.weight.dtype

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    sample = drawn(lanes, unet.config.in_channels, *size).contiguous(memory_format=torch.channels_last)
    emb = unet.embed(torch.linspace(900, 20, lanes)).repeat_interleave(2, 0)
    cross_kv = unet.cross_kv(drawn(2 * lanes, 5, 12))
    return sample, emb, cross_kv, 0.5 * drawn(2 * lanes, 3, cross_kv.shape[2]) if image else None


def apart(sample: torch.Tensor) -> torch.Tensor:
    """The branches' own samples."""
    return sample.repeat_interleave(2, 0).contiguous(memory_format=torch.channels_last)


def batches(unet: UNet, call: Callable[[], object]) -> dict[str, int]:
    """Samples that each layer got, by its name."""
    names, found = {module: name for name, module in unet.named_modules() if not list(module.children())}, {}

    def saw(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        found[names[module]] = len(args[0])

    hooks = [module.register_forward_pre_hook(saw) for module in names]
    call()
    for hook in hooks:
        hook.remove()
    return found


def layers(prefix: str, *names: str) -> set[str]:
    return {f"{prefix}{name}" for name in names}


ONCE = {
    "attention first": {"conv_in"}
    | layers("down_blocks.0.resnets.0.", *RESNETS)
    | layers("down_blocks.0.attentions.0.", "norm")
    | layers(DOWN, "norm1", "attn1.to_out.0", "norm2", "attn2.to_q"),
    "attention in the middle": {"conv_in", "down_blocks.0.downsamplers.0.conv"}
    | layers("down_blocks.0.resnets.0.", *RESNETS)
    | layers("down_blocks.0.resnets.1.", *RESNETS)
    | layers("down_blocks.1.resnets.0.", *RESNETS, "conv_shortcut")
    | layers("mid_block.resnets.0.", *RESNETS)
    | layers("mid_block.attentions.0.", "norm")
    | layers(MIDDLE, "norm1", "attn1.to_out.0", "norm2", "attn2.to_q"),
}


@pytest.mark.parametrize("kind", ONCE)
@pytest.mark.parametrize("lanes", [1, 3])
def test_what_precedes_the_prompt_is_computed_once(kind, lanes):
    unet = network(KINDS[kind])
    sample, *others = given(unet, lanes)
    seen = batches(unet, lambda: unet(sample, *others))
    assert {name for name, count in seen.items() if count == lanes} == ONCE[kind]
    assert {count for name, count in seen.items() if name not in ONCE[kind]} == {2 * lanes}
    assert set(batches(unet, lambda: unet(apart(sample), *others)).values()) == {2 * lanes}


@pytest.mark.every(5)
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_branches_as_one_are_what_they_are_apart(kind, lanes, image):
    """Float64, in which sums in another order differ by 1e-15; outputs are about 3 at most."""
    unet = network(KINDS[kind], torch.float64)
    sample, *others = given(unet, lanes, image=image)
    found, expected = unet(sample, *others), unet(apart(sample), *others)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert float((expected[::2] - expected[1::2]).abs().max()) > 1e-2, "prompts tell the branches apart"
    if lanes > 1:
        assert float((expected[0] - expected[2]).abs().max()) > 0.1


@pytest.mark.parametrize("reuse", [1, 2])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("weighted", [True, False])
def test_merging_branches_as_one_is_what_it_is_apart(lanes, weighted, reuse):
    """Each lane has destinations and a mask of its own; a matching is used again when the branches have parted."""
    unet, size = network(SMALL), (12, 12)
    variant = MergingVariant(weighted=weighted)
    regions, choices = [], []
    for lane in range(lanes):
        mask = np.zeros(size)
        mask[2 * lane : 2 * lane + 2, 4:6] = 1
        host_regions = find_regions(TokenMerging(0.5, levels=2), unet.attention_sizes(*size), mask)
        regions.append(upload_regions(host_regions, torch.device("cpu"), reuse=reuse, variant=variant))
        drawn = draw_choices(np.full(3, lane, np.float32), 1, [region.cells for region in host_regions])
        choices.append([torch.from_numpy(choice[0]) for choice in drawn])
    levels = level_mergings(regions, choices)
    assert len(levels) == 2
    sample, *others = given(unet, lanes, size)
    found, expected = unet(sample, *others, merging=levels), unet(apart(sample), *others, merging=levels)
    # the same tokens merge, so nothing but the order of sums differs
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert float((expected - unet(apart(sample), *others)).abs().max()) > 1e-3, "it does merge"


# Steps. A lane whose branches have time embeddings of their own, though equal ones, is computed apart.


class Watched:
    """A network, and how many samples and prompts each of its evaluations had."""

    def __init__(self, unet: UNet) -> None:
        self.unet, self.config, self.seen = unet, unet.config, []

    def __call__(
        self,
        sample: torch.Tensor,
        emb: torch.Tensor,
        cross_kv: torch.Tensor,
        image_kv: torch.Tensor | None,
        merging: Any,
    ) -> torch.Tensor:
        self.seen.append((len(sample), len(cross_kv)))
        return self.unet(sample, emb, cross_kv, image_kv, merging)


def lane(
    steps: Any,
    unet: UNet,
    seed: int,
    *,
    guidance: float = 4.0,
    branch_embeddings: bool = False,
    image: bool = False,
    ratio: float = 0.0,
) -> State:
    """A state at its first row; all its tensors follow from the seed."""
    rng, side = np.random.default_rng(seed), 8
    is_inpainting = unet.config.in_channels == 9

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    made, branches = table("euler", 2 + seed % 2), 2 if guidance > 1 else 1
    cross_kv, image_latents = unet.cross_kv(drawn(branches, 5, 12)), drawn(4, side, side)
    mask = torch.zeros(1, side, side)
    mask[:, 2:4, 2:4] = 1
    sizes = unet.attention_sizes(side, side)
    host_regions = find_regions(TokenMerging(ratio), sizes, mask[0].numpy(), mask_aware=False)
    regions = upload_regions(host_regions, torch.device("cpu"), variant=MergingVariant(mask_aware=False))
    conditioning = Conditioning(
        cross_kv=cross_kv,
        pooled=None,
        time_ids=None,
        guidance_scale=guidance,
        image_latents=image_latents,
        mask=mask,
        inpaint_latents=torch.cat([mask, drawn(4, side, side)]) if is_inpainting else None,
        noise_fill=False,
        image_kv=0.5 * drawn(branches, 3, cross_kv.shape[2]) if image else None,
        regions=regions,
    )
    unit, timesteps = drawn(4, side, side), torch.from_numpy(made.timesteps.astype(np.float32))
    buffer = torch.zeros(steps.state_slots(made) + 2, *unit.shape)
    buffer[0] = made.start_image * image_latents + made.start_noise * unit
    embeddings = unet.embed(timesteps)[:, None].expand(-1, branches if branch_embeddings else 1, -1).contiguous()
    drawn_choices = draw_choices(unit.numpy(), len(made), [region.cells for region in host_regions])
    choices = tuple(torch.from_numpy(choice) for choice in drawn_choices)
    return State(
        conditioning=conditioning,
        table=made,
        packed_table=steps.pack(made),
        embeddings=embeddings,
        buffer=buffer,
        noise=unit,
        choices=choices,
    )


def painted(steps: Any, lanes: list[State]) -> list[torch.Tensor]:
    """All lanes to their ends, together; their samples."""
    for row in range(max(len(each.table) for each in lanes)):
        here = [each for each in lanes if row < len(each.table)]
        steps.advance([Step(each, row) for each in here])
    return [steps.sample(each).clone() for each in lanes]


def stepping(way: str, unet: Any, alone: bool) -> CapturedStepper | EagerStepper:
    if way == "eager":
        return EagerStepper(unet, CPU, torch.float32, alone=alone)
    capturer = FakeCapturer() if way == "captured" else None
    network = Network(unet=unet, device=CPU, dtype=torch.float32, fused=False, capturer=capturer)
    return CapturedStepper(network, alone, Limits(16, 2**30))


MIXED = [{}, {"guidance": 1.0}, {"guidance": 7.0}, {"image": True}, {"ratio": 0.5}, {}, {"ratio": 0.5, "guidance": 1.0}]


@pytest.mark.every(10)
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("kind", ["attention first", "4 channels", "attention lower"])
@pytest.mark.parametrize("way", ["eager", "launched", "captured"])
def test_mixed_lanes_are_what_they_are_with_their_branches_apart(way, kind, alone):
    samples = []
    for branch_embeddings in (False, True):
        unet = Watched(network(KINDS[kind]))
        steps = stepping(way, unet, alone)
        lanes = [
            lane(steps, unet.unet, seed, branch_embeddings=branch_embeddings, **more) for seed, more in enumerate(MIXED)
        ]
        samples.append(painted(steps, lanes))
        guided = {each for each in unet.seen if each != (1, 1)}
        if branch_embeddings:
            assert all(count == prompts for count, prompts in guided)
        else:
            assert guided
            assert all(2 * count == prompts for count, prompts in guided)
    for one, other in zip(*samples, strict=True):
        # float32 sums in another order, over up to three rows; levels reach 14.6
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("way", ["eager", "captured"])
def test_branches_of_lanes_in_one_evaluation(way):
    """Several batch layouts: lanes with one key are side by side, in static batches with empty places."""
    unet = Watched(network(SMALL))
    steps = stepping(way, unet, alone=False)
    together = painted(steps, [lane(steps, unet.unet, 2 * seed) for seed in range(3)])
    assert set(unet.seen) == ({(3, 6)} if way == "eager" else {(4, 8)})
    for seed, found in enumerate(together):
        steps = stepping("eager", unet, alone=True)
        (expected,) = painted(steps, [lane(steps, unet.unet, 2 * seed, branch_embeddings=True)])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_cross_attention_repeats_nothing_for_branches_that_have_parted():
    unet, seen = network(SMALL), []
    sample, *others = given(unet, 2)
    for module in unet.modules():
        if isinstance(module, CrossAttention):
            module.register_forward_hook(lambda _, args, out: seen.append((len(args[0]), len(out))))
    unet(sample, *others)
    assert seen == [(2, 4)] + [(4, 4)] * (len(seen) - 1)


@pytest.mark.parametrize(("kind", "expected"), [("sd15-inpaint", {(1, 2)}), ("sdxl", {(2, 2)})])
def test_branches_with_texts_of_their_own_in_the_time_embedding_are_apart(tmp_path, monkeypatch, kind, expected):
    pytest.importorskip("diffusers", reason="makes its models with diffusers: pip install 'intarsia[torch]'")
    from tests.random_model import write_model, write_registry, write_xl_model

    folder = write_xl_model(tmp_path / "m") if kind == "sdxl" else write_model(tmp_path / "m", 9, "tiny")
    registry, forward, seen = write_registry(tmp_path / "w.toml", m=(folder, kind)), UNet.forward, []

    def watched(self: Any, sample: torch.Tensor, emb: torch.Tensor, cross_kv: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.append((len(sample), len(cross_kv)))
        return forward(self, sample, emb, cross_kv, *more)

    monkeypatch.setattr(UNet, "forward", watched)
    with intarsia.Engine("torch", "cpu", registry) as engine:
        engine.run(noise_request(64, slice(16, 40), slice(16, 40), steps=2, guidance_scale=5.0))
        assert set(seen) == expected
        seen.clear()
        engine.run(noise_request(64, slice(16, 40), slice(16, 40), steps=2, guidance_scale=1.0))
        assert set(seen) == {(1, 1)}
