"""Nothing that a session does between a request's admission and its images reads a value from the device.

Shown on the meta device, which has no values: whoever asks for one fails.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from benchmarks.networks import Weights, unet_config, vae_config
from intarsia.backends.protocol import Inputs, Step
from intarsia.backends.torch.session import TorchSession
from intarsia.execution import Execution
from intarsia.models.loading import Parts
from intarsia.models.text import TextEncoding
from intarsia.models.unet import UNet
from intarsia.models.vae_kl import AutoencoderKL
from intarsia.schedulers import NAMES, table
from intarsia.token_merging import TokenMerging

META = torch.device("meta")


class Text:
    """Vectors of the right shape."""

    def __init__(self, width: int, pooled: int) -> None:
        self.width, self.pooled = width, pooled

    def encode(self, prompts: Sequence[str], clip_skip: int = 1) -> TextEncoding:
        def vectors(*shape: object) -> torch.Tensor:
            return torch.empty(len(prompts), *shape, device=META, dtype=torch.float16)

        return TextEncoding(vectors(7, self.width), vectors(self.pooled) if self.pooled else None)


@pytest.fixture(params=["sd15-inpaint", "sd15", "sdxl"])
def session(request: pytest.FixtureRequest) -> TorchSession:
    weights = Weights(request.param, shrunk=True)
    with META:
        unet, vae = UNet(unet_config(weights)), AutoencoderKL(vae_config(weights))
    for each in (unet, vae):
        each.half().requires_grad_(False).eval().to(memory_format=torch.channels_last)
    text = Text(unet.config.cross_attention_dim[0], 32 if weights.is_xl else 0)
    return TorchSession(Parts(unet=unet, vae=vae, text=text, scheduler={}, index={}), META, Execution())


@pytest.mark.every(5)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("merging", [0.0, 0.5])
def test_nothing_is_read(session, guidance, merging):
    mask = np.zeros((192, 128), bool)
    mask[:24, :24] = True
    image, latent_mask = np.zeros((*mask.shape, 3), np.uint8), mask[::8, ::8].astype(np.float32)
    inputs = Inputs(
        prompt="a",
        negative_prompt="b",
        clip_skip=1,
        guidance_scale=guidance,
        image=image,
        mask=mask,
        latent_mask=latent_mask,
        noise_fill=True,
        token_merging=TokenMerging(merging),
    )
    shared, warnings = session.encode(inputs)
    assert bool(shared.regions) == bool(merging)
    assert not warnings
    noise = np.zeros((4, 24, 16), np.float32)
    lanes = [session.start(shared, table(name, 4), noise) for name in (*NAMES[:7], "ScoreSdeVeScheduler")]
    for row in range(2):
        for here in (lanes, lanes[::3]):
            session.advance([Step(lane, row, noise) for lane in here])
    with pytest.raises(Exception, match=r"meta"):
        lanes[0].buffer.sum().item()
