"""Training of intarsia-tiny-lcm: the packaged network, trained on for the few timesteps that LCMScheduler samples at.

Each step of LCM's sampling (Luo et al. 2023, arXiv 2310.04378) predicts the whole image and puts new noise on it. Here
every prediction of such a sampling is trained, on inputs that the network's own earlier predictions make, toward
the scene itself: consistency training with direct targets, without a teacher. The usual target, what the undistilled
network paints in many guided steps, is further from the scenes than its own unguided prediction is (README.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from tools.train_tiny import networks
from tools.train_tiny.captions import with_article
from tools.train_tiny.denoiser import TOKENIZER
from tools.train_tiny.latents import Latents
from tools.train_tiny.scenes import Mixture
from tools.train_tiny_parts import loop
from tools.train_tiny_parts.examples import draw, surroundings
from tools.train_tiny_parts.loop import Run
from tools.train_tiny_parts.packaged import packaged
from tools.train_tiny_parts.settings import FewStepSettings

MIXTURE = Mixture(empty=0.3, photographic=0.2)
ORIGINAL_STEPS = 50  # LCMScheduler's: the timesteps 19, 39 … 999 are those that a sampling chooses from
EXITS = (0.25, 0.5, *(0.25 / 6,) * 6)  # shares of clip skips 1, 2 …, as the packaged network was trained
OUTSIDE = 0.15  # weight of errors outside the mask
CORNER = 0.03  # of the pseudo-Huber loss, in latents: a median there, so that edges are sharp, a mean below


def sampled_timesteps(steps: int) -> list[int]:
    """The timesteps that LCMScheduler samples at, highest first."""
    choice = [1000 // ORIGINAL_STEPS * (k + 1) - 1 for k in range(ORIGINAL_STEPS)][::-1]
    places = np.floor(np.linspace(0, ORIGINAL_STEPS, num=steps, endpoint=False)).astype(int)
    return [choice[place] for place in places]


@dataclass(frozen=True, eq=False)
class Scenes:
    """Encoded scenes of one size, with and without the shapes that their captions name."""

    truth: Latents
    behind: Latents


@dataclass(frozen=True, eq=False)
class Start:
    """Where a batch's sampling starts: float32 latents and masks, text states, timesteps, and the first noisy input."""

    truth: torch.Tensor
    conditions: torch.Tensor  # mask and masked latents, [N, 5, h, w]
    states: torch.Tensor
    timesteps: list[int]
    sample: torch.Tensor


def _drawn_scenes(count: int, size: int) -> Scenes:
    return Scenes(draw(count, size, MIXTURE), draw(count, size, MIXTURE, surroundings))


def _noise(rng: np.random.Generator, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32))


def _start(
    scenes: Scenes, text: torch.nn.Module, settings: FewStepSettings, rng: np.random.Generator, count: int
) -> Start:
    """A batch: its scenes, its texts, and noise alone or the noisy image without the shape."""
    places = rng.integers(len(scenes.truth.captions), size=count)
    truth, masked, mask, captions, _ = scenes.truth.take(places)
    behind = scenes.behind.take(places)[0]
    texts = [with_article(rng, caption) for caption in captions]
    ids = TOKENIZER(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    exits = torch.from_numpy(rng.choice(np.arange(1, 9), count, p=EXITS))
    with torch.no_grad():
        states = networks.encode_text(text, ids, exits)
    timesteps = sampled_timesteps(2 if rng.random() < settings.two_step_share else 4)
    sample = _noise(rng, torch.from_numpy(truth))
    if rng.random() < settings.image_share:
        timesteps = timesteps[int(rng.integers(1, max(len(timesteps) - 1, 2))) :]
        share = networks.signal_shares()[timesteps[0]].float()
        sample = share.sqrt() * torch.from_numpy(behind) + (1 - share).sqrt() * sample
    conditions = torch.from_numpy(np.concatenate([mask, masked], 1))
    return Start(torch.from_numpy(truth), conditions, states, timesteps, sample)


def loss_of(unet: torch.nn.Module, start: Start, rng: np.random.Generator) -> torch.Tensor:
    """Mean error of the predicted images over the steps of one sampling; gradients do not cross steps."""
    shares, sample = networks.signal_shares().float(), start.sample
    mask = start.conditions[:, :1]
    weight = mask + (1 - mask) * OUTSIDE
    losses = []
    for place, timestep in enumerate(start.timesteps):
        share = shares[timestep]
        inputs = torch.cat([sample, start.conditions], 1).contiguous(memory_format=torch.channels_last)
        times = torch.full((len(inputs),), timestep)
        velocity = unet(inputs, times, start.states, return_dict=False)[0]
        predicted = share.sqrt() * sample - (1 - share).sqrt() * velocity
        error = ((predicted - start.truth) ** 2 + CORNER**2).sqrt() - CORNER
        losses.append(((error.mean(1, keepdim=True) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))).mean())
        if place + 1 < len(start.timesteps):
            after = shares[start.timesteps[place + 1]]
            sample = after.sqrt() * predicted.detach() + (1 - after).sqrt() * _noise(rng, predicted)
    return torch.stack(losses).mean()


def train(settings: FewStepSettings, seed: int, folder: Path) -> UNet2DConditionModel:
    """The trained UNet, of moving averages."""
    torch.manual_seed(seed)
    nets = packaged()
    unet = nets.unet.requires_grad_(True)
    small, large = _drawn_scenes(settings.scenes_256, 256), _drawn_scenes(settings.scenes_512, 512)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        is_large = rng.random() < settings.large_share
        scenes, count = (large, settings.batch_512) if is_large else (small, settings.batch_256)
        return loss_of(unet, _start(scenes, nets.text, settings, rng, count), rng)

    loop.train(
        Run(name="lcm", seed=seed, steps=settings.steps, rate=settings.rate, folder=folder, decay=settings.decay),
        unet,
        loss,
    )
    return unet.eval()
