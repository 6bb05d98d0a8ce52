"""Training of intarsia-tiny-base: the packaged network without its five inputs for mask and masked image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from tools.train_tiny import networks
from tools.train_tiny.denoiser import Networks, draw_batch, loss_of
from tools.train_tiny.scenes import Mixture
from tools.train_tiny_parts import loop
from tools.train_tiny_parts.examples import draw
from tools.train_tiny_parts.loop import Run
from tools.train_tiny_parts.packaged import batches_of_truth, packaged
from tools.train_tiny_parts.settings import TextOnlySettings

# One shape a scene, standing where a mask would have had it and as large: whoever paints into a part of an image
# with this network shows it everything else, at every step.
MIXTURE = Mixture(empty=0.2, photographic=0.0, masks=("box", "disc", "blob"), others=0)
NOISE_ALONE = 0.2  # of the inputs, as at the start of sampling


@torch.no_grad()
def without_mask_inputs(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same network with four inputs, which sees every mask as full: its constant part goes into the bias.

    Under a full mask the masked image is gray, −1…1's zero, whose latents are zero too but for the fourth channel's
    edge; so that only the mask's own weights add anything.
    """
    layer = unet.conv_in
    made = nn.Conv2d(4, layer.out_channels, layer.kernel_size, padding=layer.padding)
    made.weight.copy_(layer.weight[:, :4])
    made.bias = nn.Parameter(layer.bias + layer.weight[:, 4].sum((1, 2)))
    unet.conv_in = made
    unet.register_to_config(in_channels=4)
    return unet


class FourChannels(nn.Module):
    """A network of four inputs behind the nine that the training's batches have."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, inputs: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor, **options: Any) -> Any:
        """The network's own output."""
        return self.unet(inputs[:, :4].contiguous(memory_format=torch.channels_last), timesteps, states, **options)


def train(settings: TextOnlySettings, seed: int, folder: Path) -> UNet2DConditionModel:
    """The trained UNet, of moving averages."""
    torch.manual_seed(seed)
    nets = packaged()
    adapted = FourChannels(without_mask_inputs(nets.unet.requires_grad_(True)))
    own = Networks(adapted, nets.text, [], ())
    plan, shares = batches_of_truth(), networks.signal_shares().float()
    scenes = draw(settings.scenes, 256, MIXTURE)
    odds = np.full(settings.scenes, 1 / settings.scenes)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        batch = draw_batch(scenes, odds, plan, rng, settings.batch, NOISE_ALONE, torch.device("cpu"))
        return loss_of(own, batch, shares, plan).mean()

    loop.train(
        Run(name="base", seed=seed, steps=settings.steps, rate=settings.rate, folder=folder, decay=settings.decay),
        adapted,
        loss,
    )
    return adapted.unet.eval()
