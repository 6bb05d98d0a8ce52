"""Whole networks with fused kernels against the same networks with plain ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.backends.token_regions import draw_choices, find_regions
from intarsia.backends.torch.regions import level_mergings, upload_regions
from intarsia.models.layers import use_kernels
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import AutoencoderKL, KLConfig
from intarsia.token_merging import TokenMerging

SMALL = UNetConfig(
    in_channels=9,
    block_out_channels=(24, 48),
    down_attention=(True, True),
    up_attention=(True, True),
    layers_per_block=(1, 1),
    transformer_layers=(1, 2),
    heads=(3, 3),
    cross_attention_dim=(12, 12),
    norm_num_groups=8,
    time_embedding_dim=32,
)
VAE = KLConfig(block_out_channels=(16, 24), layers_per_block=1, norm_num_groups=8)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Float32 is the yardstick here: on a GPU, no product of it in ten bits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def randomise(network: torch.nn.Module, device: str) -> Any:
    """Weights that keep the signal's size and leave no layer, and no bias, without an effect."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
    return network.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)


def random(*shape: object, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ways(
    make: Callable[[Any, torch.dtype], torch.Tensor], network: torch.nn.Module, dtype: torch.dtype
) -> list[torch.Tensor]:
    """``make`` of the network plain in float32, and plain and fused in ``dtype``."""
    found = []
    for fused, kind in ((False, torch.float32), (False, dtype), (True, dtype)):
        own = copy.deepcopy(network).to(kind)
        use_kernels(own, fused)
        found.append(make(own, kind).double().cpu())
    return found


def assert_agree(exact: torch.Tensor, plain: torch.Tensor, fused: torch.Tensor, dtype: torch.dtype) -> None:
    assert exact.std() > 0.1  # else the tolerance would mean nothing
    assert bool(fused.isfinite().all())
    if dtype == torch.float32:
        # sums in another order, in some dozens of layers; outputs are about 3 at most
        assert float((fused - exact).abs().max()) < 1e-5
    else:
        # the same roundings or fewer, which chance may let fall a little worse
        errors = [float((found - exact).square().mean().sqrt()) for found in (plain, fused)]
        assert 0 < errors[1] < 1.25 * errors[0]


# Interpreted, that takes most of a minute; each kernel has tests of its own, which are interpreted in `make test`.
_WITH_SLOW_INTERPRETER = [pytest.param("interpreter", marks=pytest.mark.slow), "cuda"]


# The even size takes one launch for a norm; of the other, whose halves are rounded, the norms take two. The layers'
# own tests have each with both dtypes.
@pytest.mark.parametrize(
    ("device", "size", "dtype"),
    [
        pytest.param("interpreter", (8, 8), torch.float32, marks=pytest.mark.slow),
        pytest.param("interpreter", (7, 10), torch.float16, marks=pytest.mark.slow),
        ("cuda", (8, 8), torch.float32),
        ("cuda", (7, 10), torch.float16),
    ],
    indirect=["device"],
)
@torch.no_grad()
def test_unet(device, size, dtype):
    unet = randomise(UNet(SMALL), device)
    sample, hidden = random(2, 9, *size).to(device), random(4, 5, 12, seed=1).to(device)
    timesteps = torch.tensor([801.0, 37.5], device=device)

    def evaluate(own: Any, kind: torch.dtype) -> torch.Tensor:
        return own(sample.to(kind), own.embed(timesteps), own.cross_kv(hidden[:2].to(kind)))

    assert_agree(*ways(evaluate, unet, dtype), dtype)

    def evaluate_branches(own: Any, kind: torch.dtype) -> torch.Tensor:
        """Two lanes, the sample of each for both of its prompts."""
        emb = own.embed(timesteps).repeat_interleave(2, 0)
        return own(sample.to(kind), emb, own.cross_kv(hidden.to(kind)))

    assert_agree(*ways(evaluate_branches, unet, dtype), dtype)


@pytest.mark.parametrize("device", _WITH_SLOW_INTERPRETER, indirect=True)
@torch.no_grad()
def test_unet_that_merges_tokens(device):
    """Two lanes of two halves, each with its own mask, at both resolutions."""
    unet = randomise(UNet(SMALL), device)
    masks = np.zeros((2, 10, 10))
    masks[0, 2:4, :2], masks[1, :2, 4:6] = 1, 1
    regions, choices = [], []
    for lane, mask in enumerate(masks):
        host_regions = find_regions(TokenMerging(0.5, levels=2), unet.attention_sizes(10, 10), mask)
        drawn = draw_choices(np.full(3, lane, np.float32), 1, [region.cells for region in host_regions])
        regions.append(upload_regions(host_regions, torch.device(device)))
        choices.append([torch.from_numpy(choice[0]).to(device) for choice in drawn])
    merging = level_mergings(regions, choices)
    assert len(merging) == 2
    sample, hidden = random(4, 9, 10, 10).to(device), random(4, 5, 12, seed=1).to(device)
    emb, cross_kv = unet.embed(torch.tensor([801.0, 801, 2, 2], device=device)), unet.cross_kv(hidden)
    plain, fused = [], []
    for found, choice in ((plain, False), (fused, True)):
        use_kernels(unet, choice)
        found += [unet(each, emb, cross_kv, merging=merging).cpu() for each in (sample, sample[::2])]
    use_kernels(unet, False)
    unmerged = unet(sample, emb, cross_kv).cpu()
    assert float((plain[0] - unmerged).abs().max()) > 1e-3  # it does merge
    # the same tokens merge, so nothing but the order of sums differs
    for one, other in zip(plain, fused, strict=True):
        assert float((other - one).abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.no_grad()
def test_autoencoder(device, dtype):
    vae = randomise(AutoencoderKL(VAE), device)
    latents, image = random(1, 4, 9, 7).to(device), random(2, 3, 16, 12, seed=1).to(device)
    assert_agree(*ways(lambda own, kind: own.decode(latents.to(kind)), vae, dtype), dtype)
    encoded = ways(lambda own, kind: own.encode(image.to(kind)) / VAE.scaling_factor, vae, dtype)
    assert_agree(*encoded, dtype)


@torch.no_grad()
def test_a_shrunk_autoencoder_stays_in_half_precision_and_says_the_same(device):
    vae = randomise(AutoencoderKL(VAE), device)
    for decoder_or_encoder in (vae.decoder, vae.encoder):  # what flows in the first blocks is beyond float16's range
        decoder_or_encoder.conv_in.weight *= 5e4
    latents, image = random(1, 4, 6, 5).to(device), random(1, 3, 12, 10, seed=1).to(device)
    half, shrunk = copy.deepcopy(vae).half(), copy.deepcopy(vae).half()
    shrunk.shrink(9)
    for call, given in (("decode", latents), ("encode", image)):
        exact = getattr(vae, call)(given)
        assert not bool(getattr(half, call)(given.half()).isfinite().all())
        for fused in (False, True):
            use_kernels(shrunk, fused)
            found = getattr(shrunk, call)(given.half()).float()
            # eleven bits, some dozens of layers
            assert float((found - exact).abs().max()) < 0.02 * float(exact.abs().max())
