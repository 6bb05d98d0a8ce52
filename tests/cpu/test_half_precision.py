"""The error of float16 networks against float32, plain and with fused kernels (interpreted), beside diffusers' own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
diffusers = pytest.importorskip("diffusers", reason="compares with diffusers: pip install 'intarsia[torch]'")
pytest.importorskip("triton", reason="interprets the fused kernels: pip install triton")

from intarsia.models.layers import use_kernels
from intarsia.models.loading import load_unet
from tests.random_model import write_model


@pytest.mark.slow
@torch.no_grad()
def test_the_network_in_float16_is_as_near_to_float32_as_diffusers(tmp_path):
    folder = write_model(tmp_path / "nine", 9, "tiny") / "unet"
    generator = torch.Generator().manual_seed(2)
    sample, hidden = (torch.randn(shape, generator=generator) for shape in ((4, 9, 8, 8), (4, 77, 32)))
    timesteps = torch.tensor([801, 400, 37, 2])

    def theirs(kind: torch.dtype) -> torch.Tensor:
        network = diffusers.UNet2DConditionModel.from_pretrained(folder, torch_dtype=kind)
        return network(sample.to(kind), timesteps, hidden.to(kind)).sample.double()

    def ours(fused: bool) -> torch.Tensor:
        network = load_unet(folder, torch.device("cpu"), torch.float16)
        use_kernels(network, fused)
        return network(sample.half(), network.embed(timesteps.float()), network.cross_kv(hidden.half())).double()

    exact = theirs(torch.float32)
    yardstick, plain, fused = (
        float((found - exact).square().mean().sqrt()) for found in (theirs(torch.float16), ours(False), ours(True))
    )
    assert 0 < yardstick < 0.01 * float(exact.std())
    # chance lets the same number of roundings fall a little better or worse
    assert max(plain, fused) < 1.1 * yardstick, (yardstick, plain, fused)
