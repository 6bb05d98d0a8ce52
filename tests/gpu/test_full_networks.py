"""Full-size networks in float16, plain, fused and captured: errors against float32 beside those of diffusers' float16.

Random weights: right for comparing what is computed, whatever it may show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.gpu.needs import need_compiled_kernels

need_compiled_kernels()
diffusers = pytest.importorskip("diffusers", reason="the yardstick is diffusers: pip install 'intarsia[torch]'")

import torch

from benchmarks.peers import diffusers_unet, diffusers_vae
from benchmarks.published import UNETS, VAES
from intarsia.models.layers import use_kernels
from intarsia.models.unet import UNet
from intarsia.models.vae_kl import AutoencoderKL

LAST = torch.channels_last
# What chance may add to an error of as many roundings.
MARGIN = 1.1


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Float32 is the yardstick here: no product of it in ten bits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.no_grad():
        yield


def filled(module: torch.nn.Module, seed: int = 0) -> Any:
    """Weights that keep the signal's size, and that float16 can hold."""
    module.to_empty(device="cuda").requires_grad_(False).eval()
    generator = torch.Generator("cuda").manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.normal_(0.0, 0.1, generator=generator).add_(1.0 if name.endswith("weight") else 0.0)
        parameter.copy_(parameter.half())
    return module


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half().float().cuda()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).square().mean().sqrt())


def captured(call: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What ``call`` gives when it is captured and replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    out.zero_()
    graph.replay()
    torch.cuda.synchronize()
    return out


def assert_as_exact(
    network: torch.nn.Module, call: Callable[[], torch.Tensor], expected: torch.Tensor, yardstick: torch.Tensor
) -> None:
    """Every way of ``network`` is as close to ``expected`` as ``yardstick`` is."""
    assert expected.std() > 0.1
    most = MARGIN * error(yardstick, expected)
    assert 0 < most < 0.05
    for fused in (False, True):
        use_kernels(network, fused)
        assert error(call(), expected) <= most, f"fused: {fused}"
    assert error(captured(call), expected) <= most


@pytest.mark.parametrize(
    ("family", "size"), [("sd15-inpaint", (64, 64)), ("sd15-inpaint", (56, 84)), ("sdxl", (128, 128))]
)
def test_a_full_size_unet_is_as_close_to_float32_as_that_of_diffusers(family, size):
    config = UNETS[family]
    with torch.device("meta"):
        theirs, ours = diffusers.UNet2DConditionModel(**diffusers_unet(config)), UNet(config)
    theirs = filled(theirs)
    copies = 2 if config.added_inputs else 1  # as sessions have it: SD1.5's branches are one up to the prompt
    sample, hidden = random(copies, config.in_channels, *size), random(2, 77, config.cross_attention_dim[0], seed=2)
    both = sample.expand(2, -1, -1, -1)
    timestep, added, conditions = torch.tensor([481.0], device="cuda"), (), None
    if config.added_inputs:
        added = (random(1, 1280, seed=3), torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]], device="cuda"))
        conditions = {"text_embeds": added[0].expand(2, -1), "time_ids": added[1].expand(2, -1)}
    expected = theirs(both, timestep, hidden, added_cond_kwargs=conditions).sample
    theirs = theirs.half()
    if conditions:
        conditions = {name: each.half() for name, each in conditions.items()}
    yardstick = theirs(both.half(), timestep, hidden.half(), added_cond_kwargs=conditions).sample
    ours = ours.to_empty(device="cuda").half().requires_grad_(False).eval().to(memory_format=LAST)
    ours.load_state_dict(theirs.state_dict())
    del theirs
    emb = ours.embed(timestep, *added).expand(2, -1).contiguous()
    cross_kv, given = ours.cross_kv(hidden.half()), sample.half().to(memory_format=LAST)
    assert_as_exact(ours, lambda: ours(given, emb, cross_kv), expected, yardstick)


@pytest.mark.parametrize("family", ["sd15-inpaint", "sdxl"])
@pytest.mark.parametrize("shrunk", [False, True])
def test_a_full_size_autoencoder_is_as_close_to_float32_as_that_of_diffusers(family, shrunk):
    config = VAES[family]
    with torch.device("meta"):
        theirs, ours = diffusers.AutoencoderKL(**diffusers_vae(config)), AutoencoderKL(config)
    theirs = filled(theirs)
    latents, image = random(1, 4, 64, 64), random(2, 3, 256, 384).clamp(-1, 1)
    ours = ours.to_empty(device="cuda").half().requires_grad_(False).eval().to(memory_format=LAST)
    ours.load_state_dict(theirs.state_dict())
    if shrunk:
        ours.shrink(6)
    exact = theirs.decode(latents / config.scaling_factor).sample, theirs.encode(image).latent_dist.mode()
    theirs = theirs.half()
    half = latents.half(), image.half()
    given = [each.to(memory_format=LAST) for each in half]
    yardstick = theirs.decode(half[0] / config.scaling_factor).sample
    assert_as_exact(ours, lambda: ours.decode(given[0]), exact[0], yardstick)
    yardstick = theirs.encode(half[1]).latent_dist.mode()
    assert_as_exact(ours, lambda: ours.encode(given[1]) / config.scaling_factor, exact[1], yardstick)
